// What a Linux machine tells of a process and of itself: instructions, memory, processor. Null where it does not tell.
#pragma once

#include <dirent.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace measure {

inline std::int64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

// Instructions that this process and the threads it starts from now on execute in user mode.
class Instructions {
 public:
  Instructions() {
    perf_event_attr wanted;
    std::memset(&wanted, 0, sizeof wanted);
    wanted.size = sizeof wanted;
    wanted.type = PERF_TYPE_HARDWARE;
    wanted.config = PERF_COUNT_HW_INSTRUCTIONS;
    wanted.exclude_kernel = wanted.exclude_hv = wanted.inherit = 1;
    counter_ = static_cast<int>(syscall(SYS_perf_event_open, &wanted, 0, -1, -1, PERF_FLAG_FD_CLOEXEC));
  }
  ~Instructions() {
    if (counter_ >= 0) close(counter_);
  }
  Instructions(const Instructions&) = delete;
  Instructions& operator=(const Instructions&) = delete;

  bool counted() const { return counter_ >= 0; }
  std::int64_t read() const {
    std::int64_t value = 0;
    return counted() && ::read(counter_, &value, sizeof value) == sizeof value ? value : 0;
  }

 private:
  int counter_;
};

inline std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The value after "name ... :" in a file of such lines; the longest, as cores of one machine may differ.
inline std::string field(const char* path, const std::string& name) {
  std::ifstream file(path);
  std::string line, longest;
  while (std::getline(file, line)) {
    std::size_t colon = line.find(':');
    if (line.compare(0, name.size(), name) != 0 || colon == std::string::npos) continue;
    std::size_t start = line.find_first_not_of(" \t", colon + 1);
    if (start != std::string::npos && line.size() - start > longest.size()) longest = line.substr(start);
  }
  return longest;
}

// The largest resident memory of this process so far.
inline std::optional<std::int64_t> peak_memory_bytes() {
  std::string value = field("/proc/self/status", "VmHWM");
  if (value.empty()) return std::nullopt;
  return std::int64_t(1024) * std::strtoll(value.c_str(), nullptr, 10);
}

inline std::vector<std::string> cpu_features() {
  std::string words = field("/proc/cpuinfo", "Features");  // arm64
  if (words.empty()) words = field("/proc/cpuinfo", "flags");
  std::istringstream stream(words);
  std::vector<std::string> features;
  for (std::string word; stream >> word;) features.push_back(word);
  return features;
}

inline std::vector<int> affinity() {
  cpu_set_t set;
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

// Of the hottest zone that is named after a processor.
inline std::optional<double> temperature_c() {
  const std::string folder = "/sys/class/thermal/";
  std::optional<double> hottest;
  DIR* zones = opendir(folder.c_str());
  if (!zones) return std::nullopt;
  while (const dirent* zone = readdir(zones)) {
    std::string place = folder + zone->d_name, kind = first_line(place + "/type"), value = first_line(place + "/temp");
    bool processor = false;
    for (const char* word : {"cpu", "CPU", "soc", "x86_pkg", "big", "little", "core"})
      processor = processor || kind.find(word) != std::string::npos;
    if (!processor || value.empty()) continue;
    double degrees = std::strtod(value.c_str(), nullptr) / 1000;
    if (!hottest || degrees > *hottest) hottest = degrees;
  }
  closedir(zones);
  return hottest;
}

// Of the fastest core that this process may use.
inline std::optional<double> frequency_mhz() {
  std::optional<double> fastest;
  for (int core : affinity()) {
    std::string value = first_line("/sys/devices/system/cpu/cpu" + std::to_string(core) + "/cpufreq/scaling_cur_freq");
    double megahertz = std::strtod(value.c_str(), nullptr) / 1000;
    if (!value.empty() && (!fastest || megahertz > *fastest)) fastest = megahertz;
  }
  return fastest;
}

}  // namespace measure
