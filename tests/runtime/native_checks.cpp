// What test_native.py asks of the headers:
//   native_checks json < documents          each as its length, a newline and its bytes -> one line each: its value, or "refused"
//   native_checks sha256 < documents        -> one digest each
//   native_checks model BUNDLE ARTIFACT u8|u16|f32 HEIGHT WIDTH LEFT RIGHT OUT capture|network [REPEATS]
//       -> OUT: the network's input, disparity, confidence, corrected disparity, as float32; standard output: height and width of the maps

#include <fstream>
#include <iostream>

#include "edge_dp/model.hpp"

namespace {

bool next_document(std::string& text) {
  std::size_t size = 0;
  if (!(std::cin >> size)) return false;
  std::cin.get();
  text.resize(size);
  return size == 0 || bool(std::cin.read(&text[0], std::streamsize(size)));
}

// A form that Python can write as well: texts in hexadecimal, numbers to the last digit.
std::string plain(const edge_dp::Json& json) {
  using Kind = edge_dp::Json::Kind;
  char digits[40];
  std::string out;
  switch (json.kind()) {
    case Kind::null: return "null";
    case Kind::boolean: return json.boolean() ? "true" : "false";
    case Kind::number: std::snprintf(digits, sizeof digits, "%.17g", json.number() + 0.0); return digits;
    case Kind::text:
      for (unsigned char c : json.text()) std::snprintf(digits, sizeof digits, "%02x", c), out += digits;
      return "'" + out + "'";
    case Kind::array:
      for (const auto& item : json.items()) out += plain(item) + ",";
      return "[" + out + "]";
    default:
      for (const auto& name : json.names()) out += std::to_string(name.size()) + ":" + plain(json.at(name)) + ",";
      return "{" + out + "}";
  }
}

template <class Value>
void predict(char** words, int repeats) {
  const int height = std::stoi(words[5]), width = std::stoi(words[6]);
  std::vector<Value> views[2];
  for (int view = 0; view < 2; ++view) {
    const std::string bytes = edge_dp::read_file(words[7 + view], 1 << 30);
    views[view].resize(bytes.size() / sizeof(Value));
    std::memcpy(views[view].data(), bytes.data(), views[view].size() * sizeof(Value));
  }
  const edge_dp::Plane<Value> left(views[0].data(), height, width), right(views[1].data(), height, width);
  const auto size = words[10] == std::string("network") ? edge_dp::Size::network : edge_dp::Size::capture;
  edge_dp::Model model(words[2], words[3]);
  edge_dp::Prediction maps;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    if constexpr (std::is_same_v<Value, float>) maps = model.predict(left, right, size);
    else maps = model.predict_raw(left, right, size);
  }
  std::ofstream out(words[9], std::ios::binary);
  auto write = [&](const float* values, std::size_t count) {
    out.write(reinterpret_cast<const char*>(values), std::streamsize(count * sizeof(float)));
  };
  write(model.last_input().data(), model.last_input().size());
  for (const auto& map : {maps.disparity, maps.confidence, model.corrected(maps.disparity)}) write(map.data, std::size_t(map.height) * std::size_t(map.width));
  std::cout << maps.disparity.height << " " << maps.disparity.width << "\n";
}

}  // namespace

int main(int count, char** words) try {
  const std::string mode = words[1], type = count > 4 ? words[4] : "";
  std::string text;
  if (mode == "sha256")
    while (next_document(text)) std::cout << edge_dp::sha256(text) << "\n";
  if (mode == "json")
    while (next_document(text)) {
      try {
        std::cout << plain(edge_dp::Json::parse(text, "document")) << "\n";
      } catch (const edge_dp::Error&) {
        std::cout << "refused\n";
      }
    }
  if (mode != "model") return 0;
  const int repeats = count > 11 ? std::stoi(words[11]) : 1;
  if (type == "f32") predict<float>(words, repeats);
  if (type == "u16") predict<uint16_t>(words, repeats);
  if (type == "u8") predict<uint8_t>(words, repeats);
  return 0;
} catch (const edge_dp::Error& error) {
  std::cerr << error.what() << "\n";
  return 2;
}
