// A small strict reader of JSON (RFC 8259): whole documents of at most 64 levels, each name once, UTF-8.
// What it reads was written by someone else, so every access checks the kind and names the place.
#pragma once

#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "edge_dp/error.hpp"

namespace edge_dp {

class Json {
 public:
  enum class Kind { null, boolean, number, text, array, object };

  // Throws Error naming `where` (the file) and the byte at which it stops being JSON.
  static Json parse(const std::string& text, const std::string& where) {
    Parser parser{text, where};
    Json value = parser.value(0);
    parser.space();
    if (parser.at != text.size()) parser.fail("the end");
    value.place(where);
    return value;
  }

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::null; }
  const std::string& where() const { return where_; }

  bool boolean() const { return expect(Kind::boolean, "true or false"), number_ != 0; }
  double number() const { return expect(Kind::number, "a number"), number_; }
  const std::string& text() const { return expect(Kind::text, "text"), text_; }
  const std::vector<Json>& items() const { return expect(Kind::array, "a list"), items_; }
  const std::vector<std::string>& names() const { return expect(Kind::object, "an object"), names_; }

  // A whole number between two bounds; 1.0 is one, 1.5 and true are none.
  std::int64_t integer(std::int64_t low, std::int64_t high) const {
    double value = number();
    if (value != std::floor(value) || !(value >= double(low)) || !(value <= double(high)))
      fail("a whole number from " + std::to_string(low) + " to " + std::to_string(high));
    return static_cast<std::int64_t>(value);
  }

  // The field called `name`, or null where there is none.
  const Json* find(const std::string& name) const {
    expect(Kind::object, "an object");
    for (std::size_t index = 0; index < names_.size(); ++index)
      if (names_[index] == name) return &items_[index];
    return nullptr;
  }

  // The field called `name`; Error where there is none.
  const Json& at(const std::string& name) const {
    const Json* found = find(name);
    if (!found) throw Error(where_ + ": expected a field '" + name + "', found none. Export the bundle again.");
    return *found;
  }

  // Whether the field called `name` is there and not null.
  bool has(const std::string& name) const {
    const Json* found = find(name);
    return found && !found->is_null();
  }

  [[noreturn]] void fail(const std::string& expected) const {
    throw Error(where_ + ": expected " + expected + ". Export the bundle again.");
  }

 private:
  struct Parser {
    const std::string& text;
    const std::string& where;
    std::size_t at = 0;

    [[noreturn]] void fail(const std::string& expected) const {
      throw Error(where + ": not JSON: expected " + expected + " at byte " + std::to_string(at));
    }

    char peek() const { return at < text.size() ? text[at] : '\0'; }

    void space() {
      while (at < text.size() && std::strchr(" \t\r\n", text[at]) && text[at]) ++at;
    }

    bool take(char wanted) {
      space();
      if (at >= text.size() || text[at] != wanted) return false;
      ++at;
      return true;
    }

    Json value(int depth) {
      if (depth > 64) fail("at most 64 levels of nesting");
      space();
      Json json;
      switch (peek()) {
        case '{': return object(depth);
        case '[': return array(depth);
        case '"':
          json.kind_ = Kind::text;
          json.text_ = string();
          return json;
        case 't': return word("true", Kind::boolean, 1);
        case 'f': return word("false", Kind::boolean, 0);
        case 'n': return word("null", Kind::null, 0);
        default: return number();
      }
    }

    Json word(const char* wanted, Kind kind, double value) {
      if (text.compare(at, std::strlen(wanted), wanted) != 0) fail(wanted);
      at += std::strlen(wanted);
      Json json;
      json.kind_ = kind;
      json.number_ = value;
      return json;
    }

    Json object(int depth) {
      Json json;
      json.kind_ = Kind::object;
      ++at;
      if (take('}')) return json;
      std::set<std::string> seen;
      do {
        space();
        if (peek() != '"') fail("a name in quotes");
        std::string name = string();
        if (!seen.insert(name).second) fail("each name once");
        if (!take(':')) fail("':'");
        json.names_.push_back(std::move(name));
        json.items_.push_back(value(depth + 1));
      } while (take(','));
      if (!take('}')) fail("',' or '}'");
      return json;
    }

    Json array(int depth) {
      Json json;
      json.kind_ = Kind::array;
      ++at;
      if (take(']')) return json;
      do json.items_.push_back(value(depth + 1));
      while (take(','));
      if (!take(']')) fail("',' or ']'");
      return json;
    }

    std::size_t digits() {
      std::size_t start = at;
      while (peek() >= '0' && peek() <= '9') ++at;
      return at - start;
    }

    Json number() {
      std::size_t start = at;
      if (peek() == '-') ++at;
      if (peek() == '0') ++at;
      else if (digits() == 0) fail("a value");
      if (peek() == '.' && (++at, digits() == 0)) fail("a digit");
      if (peek() == 'e' || peek() == 'E') {
        ++at;
        if (peek() == '+' || peek() == '-') ++at;
        if (digits() == 0) fail("a digit");
      }
      Json json;
      json.kind_ = Kind::number;
      json.number_ = std::strtod(text.substr(start, at - start).c_str(), nullptr);
      if (!std::isfinite(json.number_)) fail("a number of double precision");
      return json;
    }

    unsigned hex() {
      unsigned code = 0;
      for (int digit = 0; digit < 4; ++digit, ++at) {
        static const char digits[] = "0123456789abcdef";
        const char* found = peek() ? std::strchr(digits, std::tolower(static_cast<unsigned char>(peek()))) : nullptr;
        if (!found) fail("four hexadecimal digits");
        code = 16 * code + static_cast<unsigned>(found - digits);
      }
      return code;
    }

    static void append(std::string& out, unsigned code) {
      if (code < 0x80) {
        out += char(code);
        return;
      }
      int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      out += char((0xFF00 >> (more + 1) & 0xFF) | code >> 6 * more);
      while (more--) out += char(0x80 | (code >> 6 * more & 0x3F));
    }

    void escape(std::string& out) {
      static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
      if (peek() != 'u') {
        const char* found = peek() ? std::strchr(letters, peek()) : nullptr;
        if (!found) fail("an escape");
        out += meant[found - letters];
        ++at;
        return;
      }
      ++at;
      unsigned code = hex();
      if (code >= 0xD800 && code < 0xDC00 && text.compare(at, 2, "\\u") == 0) {
        at += 2;
        unsigned low = hex();
        if (low < 0xDC00 || low > 0xDFFF) fail("the second half of a character");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      }
      if (code >= 0xD800 && code <= 0xDFFF) fail("a whole character, no lone surrogate");
      append(out, code);
    }

    // One character of several bytes, checked: no overlong form, no surrogate, at most U+10FFFF.
    void wide(std::string& out) {
      unsigned char first = static_cast<unsigned char>(text[at]);
      int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
      unsigned code = first & (0x3F >> more);
      std::size_t start = at++;
      for (int left = more; left > 0; --left, ++at) {
        unsigned char next = static_cast<unsigned char>(peek());
        if ((next & 0xC0) != 0x80) fail("UTF-8");
        code = code << 6 | (next & 0x3F);
      }
      static const unsigned least[] = {0, 0x80, 0x800, 0x10000};
      if (first < 0xC2 || first > 0xF4 || code < least[more] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        fail("UTF-8");
      out.append(text, start, at - start);
    }

    std::string string() {
      std::string out;
      ++at;
      while (true) {
        if (at >= text.size()) fail("'\"'");
        unsigned char c = static_cast<unsigned char>(text[at]);
        if (c == '"') break;
        if (c < 0x20) fail("no control character");
        if (c >= 0x80) wide(out);
        else if (c == '\\') ++at, escape(out);
        else out += text[at++];
      }
      ++at;
      return out;
    }
  };

  void place(const std::string& where) {
    where_ = where;
    for (std::size_t index = 0; index < items_.size(); ++index)
      items_[index].place(where + ": " + (kind_ == Kind::object ? names_[index] : "[" + std::to_string(index) + "]"));
  }

  void expect(Kind kind, const char* words) const {
    if (kind_ != kind) fail(words);
  }

  Kind kind_ = Kind::null;
  double number_ = 0;
  std::string text_, where_;
  std::vector<std::string> names_;
  std::vector<Json> items_;
};

}  // namespace edge_dp
