// Runs one ExecuTorch program and says in one JSON what it did. See README.md in this folder for options and output.
//
//   edge_dp_runner --model net.pte --input left_and_right.f32 --output outputs.f32 --repeats 100
//
// Exit code 0, with the JSON on standard output; or 2, with {"error": ..., "file": ...} on standard error.

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/runtime/platform/platform.h>

#include "edge_dp/program.hpp"
#include "measure.hpp"

namespace {

using edge_dp::Error;

constexpr int bad_input = 2;
constexpr const char* usage =
    "expected --model FILE [--input FILE|-]... [--output FILE|-] [--threads N] [--repeats N] [--warmup N] [--etdump FILE] "
    "[--time-limit SECONDS] [--memory-limit MEGABYTES]";

struct Options {
  std::string model, output, etdump;
  std::vector<std::string> inputs;
  int threads = 1, repeats = 1, warmup = 0, time_limit_s = 0, memory_limit_mb = 0;
};

// An error that concerns another file than the model.
struct FileError : Error {
  FileError(std::string path, const std::string& words) : Error(path + ": " + words), file(std::move(path)) {}
  std::string file;
};

std::string last_words;  // of ExecuTorch's log, for the error that follows

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    char escape[8];
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (static_cast<unsigned char>(c) < 0x20) std::snprintf(escape, sizeof escape, "\\u%04x", c), out += escape;
    else out += c;
  }
  return out + '"';
}

std::string json(const std::string& text) { return quoted(text); }
std::string json(bool value) { return value ? "true" : "false"; }
std::string json(int value) { return std::to_string(value); }
std::string json(std::int64_t value) { return std::to_string(value); }
std::string json(unsigned long value) { return std::to_string(value); }
std::string json(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}
template <class T>
std::string json(const std::vector<T>& values) {
  std::string out = "[";
  for (const T& value : values) out += (out.size() > 1 ? ", " : "") + json(value);
  return out + "]";
}
template <class T>
std::string json(const std::optional<T>& value) {
  return value ? json(*value) : "null";
}

class Object {
 public:
  template <class T>
  Object& add(const char* name, const T& value) {
    text_ += (text_.empty() ? "{" : ", ") + quoted(name) + ": " + json(value);
    return *this;
  }
  std::string text() const { return text_ + "}"; }

 private:
  std::string text_;
};

std::string error_line(const std::string& error, const std::string& file) {
  return Object().add("error", error).add("file", file).text() + "\n";
}

// The engine trusts parts of the file that its verification does not reach. Where that ends the process, the caller still
// gets its one line: written beforehand, because a handler may not allocate.
std::string crash_line, late_line;

void on_signal(int number) {
  const std::string& line = number == SIGALRM ? late_line : crash_line;
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) _exit(bad_input + 1);
  _exit(bad_input);
}

void on_abort() {
  on_signal(SIGABRT);
  std::abort();
}

void watch(const Options& options) {
  const std::string& model = options.model;
  crash_line = error_line(model + ": ExecuTorch crashed on it: the file is damaged or made for another version", model);
  late_line = error_line(model + ": did not end within " + std::to_string(options.time_limit_s) + " s", model);
  static char stack[1 << 16];
  stack_t own{};
  own.ss_sp = stack;
  own.ss_size = sizeof stack;
  sigaltstack(&own, nullptr);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  for (int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM}) sigaction(number, &action, nullptr);
  if (options.time_limit_s > 0) alarm(static_cast<unsigned>(options.time_limit_s));
  if (options.memory_limit_mb > 0) {
    rlimit most{};
    most.rlim_cur = most.rlim_max = static_cast<rlim_t>(options.memory_limit_mb) << 20;
    setrlimit(RLIMIT_AS, &most);
  }
  static const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);

  ::executorch::runtime::PalImpl listener = ::executorch::runtime::PalImpl::create(
      [](et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message, size_t length) {
        if (level == et_pal_log_level_t::kError || level == et_pal_log_level_t::kFatal)
          last_words.assign(message, std::min<size_t>(length, 300));
      },
      __FILE__);
  listener.abort = on_abort;
  ::executorch::runtime::register_pal(listener);
}

int whole_number(const std::string& name, const std::string& text, int least) {
  char* end = nullptr;
  long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || value < least || value > 100000000)
    throw Error(name + ": expected a whole number from " + std::to_string(least) + " to 100000000, found '" + text + "'");
  return static_cast<int>(value);
}

Options read_options(int count, char** words) {
  Options options;
  for (int at = 1; at < count; at += 2) {
    std::string name = words[at];
    if (at + 1 == count) throw Error(name + ": expected a value after it; " + usage);
    std::string value = words[at + 1];
    if (name == "--model") options.model = value;
    else if (name == "--input") options.inputs.push_back(value);
    else if (name == "--output") options.output = value;
    else if (name == "--etdump") options.etdump = value;
    else if (name == "--threads") options.threads = whole_number(name, value, 1);
    else if (name == "--repeats") options.repeats = whole_number(name, value, 1);
    else if (name == "--warmup") options.warmup = whole_number(name, value, 0);
    else if (name == "--time-limit") options.time_limit_s = whole_number(name, value, 0);
    else if (name == "--memory-limit") options.memory_limit_mb = whole_number(name, value, 0);
    else throw Error(name + ": unknown option; " + usage);
  }
  if (options.model.empty()) throw Error(std::string("--model: missing; ") + usage);
  return options;
}

// All inputs of all cases, one after the other: the files given, in their order.
std::vector<float> read_inputs(const std::vector<std::string>& paths) {
  std::string bytes;
  for (const std::string& path : paths) {
    std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
    if (!file) throw FileError(path, std::string("expected a file of float32 values, found: ") + std::strerror(errno));
    char part[1 << 16];
    std::size_t before = bytes.size();
    for (std::size_t got; (got = std::fread(part, 1, sizeof part, file)) > 0;) bytes.append(part, got);
    bool failed = std::ferror(file) != 0;
    if (file != stdin) std::fclose(file);
    if (failed || bytes.size() == before || (bytes.size() - before) % sizeof(float) != 0)
      throw FileError(path, "expected a file of float32 values, found " + std::to_string(bytes.size() - before) + " bytes");
  }
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

void write_bytes(const std::string& path, const void* bytes, std::size_t size) {
  std::FILE* file = path == "-" ? stdout : std::fopen(path.c_str(), "wb");
  bool whole = file && std::fwrite(bytes, 1, size, file) == size;
  if (file) whole = (file == stdout ? std::fflush(file) : std::fclose(file)) == 0 && whole;
  if (!whole) throw FileError(path, std::string("cannot be written: ") + std::strerror(errno));
}

struct Run {
  std::vector<std::int64_t> nanoseconds, instructions;
  std::vector<float> outputs;
  bool repeats_agree = true;
};

// Pointers to the tensors of each case within all values.
std::vector<std::vector<const float*>> split_cases(const edge_dp::Program& program, const std::vector<float>& values,
                                                   const Options& options) {
  std::size_t size = 0;
  for (const auto& shape : program.inputs()) size += edge_dp::count_of(shape);
  if (size == 0 || values.size() % size != 0)
    throw FileError(options.inputs.back(), "expected " + std::to_string(4 * size) + " bytes for each case, found " +
                                               std::to_string(4 * values.size()) + " in all");
  std::vector<std::vector<const float*>> cases(values.size() / size);
  const float* at = values.data();
  for (auto& tensors : cases)
    for (const auto& shape : program.inputs()) tensors.push_back(at), at += edge_dp::count_of(shape);
  return cases;
}

void infer(edge_dp::Program& program, const std::vector<const float*>& tensors, const measure::Instructions& counter, Run& run) {
  program.set_inputs(tensors);
  std::int64_t start = measure::now_ns(), before = counter.read();
  program.execute();
  std::int64_t after = counter.read();
  run.nanoseconds.push_back(measure::now_ns() - start);
  if (counter.counted()) run.instructions.push_back(after - before);
}

Run run_all(edge_dp::Program& program, const std::vector<std::vector<const float*>>& cases, const Options& options,
            const measure::Instructions& counter, std::int64_t& first_ns) {
  Run run;
  for (int index = 0; index < options.warmup && !cases.empty(); ++index) infer(program, cases[0], counter, run);
  if (!run.nanoseconds.empty()) first_ns = run.nanoseconds[0];
  run.nanoseconds.clear();
  run.instructions.clear();
  run.nanoseconds.reserve(cases.size() * static_cast<std::size_t>(options.repeats));
  run.instructions.reserve(run.nanoseconds.capacity());
  for (const auto& tensors : cases) {
    std::size_t start = run.outputs.size();
    for (int repeat = 0; repeat < options.repeats; ++repeat) {
      infer(program, tensors, counter, run);
      if (options.output.empty()) continue;  // only timed: nothing else touches the caches
      std::size_t at = start;
      for (std::size_t index = 0; index < program.outputs().size(); ++index) {
        const float* values = program.output(index);
        std::size_t count = edge_dp::count_of(program.outputs()[index]);
        if (repeat == 0) run.outputs.insert(run.outputs.end(), values, values + count);
        else run.repeats_agree = run.repeats_agree && std::memcmp(values, run.outputs.data() + at, 4 * count) == 0;
        at += count;
      }
    }
  }
  if (options.warmup == 0 && !run.nanoseconds.empty()) first_ns = run.nanoseconds[0];
  return run;
}

void run(const Options& options) {
  measure::Instructions counter;  // before the pool's threads start, so that they are counted too
  std::vector<float> values = read_inputs(options.inputs);
  std::unique_ptr<::executorch::etdump::ETDumpGen> tracer;
  if (!options.etdump.empty()) tracer = std::make_unique<::executorch::etdump::ETDumpGen>();
  std::int64_t start = measure::now_ns();
  edge_dp::Program program(options.model, options.threads, tracer.get());
  std::int64_t load_ns = measure::now_ns() - start, first_ns = 0;
  std::vector<std::vector<const float*>> cases;
  if (!options.inputs.empty()) cases = split_cases(program, values, options);
  Run done = run_all(program, cases, options, counter, first_ns);
  if (tracer) {
    auto dump = tracer->get_etdump_data();
    if (dump.buf == nullptr) throw FileError(options.etdump, "no trace was recorded");
    write_bytes(options.etdump, dump.buf, dump.size);
    std::free(dump.buf);
  }
  const bool compared = options.repeats > 1 && !options.output.empty();
  Object result;
  result.add("load_ns", load_ns)
      .add("first_ns", cases.empty() ? std::optional<std::int64_t>() : std::optional<std::int64_t>(first_ns))
      .add("cases", cases.size())
      .add("repeats", options.repeats)
      .add("warmup", options.warmup)
      .add("threads", options.threads)
      .add("nanoseconds", done.nanoseconds)
      .add("instructions", counter.counted() ? std::optional<std::vector<std::int64_t>>(done.instructions) : std::nullopt)
      .add("repeats_agree", compared ? std::optional<bool>(done.repeats_agree) : std::nullopt)
      .add("inputs", program.inputs())
      .add("outputs", program.outputs())
      .add("peak_memory_bytes", measure::peak_memory_bytes())
      .add("affinity", measure::affinity())
      .add("temperature_c", measure::temperature_c())
      .add("frequency_mhz", measure::frequency_mhz())
      .add("cpu_features", measure::cpu_features())
      .add("hwcap", getauxval(AT_HWCAP))
      .add("hwcap2", getauxval(AT_HWCAP2));
  std::string line = result.text() + "\n";
  if (!options.output.empty() && options.output != "-")
    write_bytes(options.output, done.outputs.data(), done.outputs.size() * sizeof(float));
  write_bytes("-", line.data(), line.size());
  if (options.output == "-") write_bytes("-", done.outputs.data(), done.outputs.size() * sizeof(float));
}

int fail(std::string words, const std::string& file) {
  if (!last_words.empty()) words += ": " + last_words;
  std::cerr << error_line(words, file);
  return bad_input;
}

}  // namespace

int main(int count, char** words) {
  Options options;
  try {
    options = read_options(count, words);
    watch(options);
    run(options);
    return 0;
  } catch (const FileError& error) {
    return fail(error.what(), error.file);
  } catch (const Error& error) {
    return fail(error.what(), options.model);
  } catch (const std::exception& error) {  // out of memory
    return fail(options.model + ": " + error.what(), options.model);
  }
}
