// Where the facts come from: cpuid and /sys on Linux, sysctl on macOS, sysconf on both.

#ifndef _WIN32

#include "info.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#include <sys/auxv.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

namespace tutti::cpu {
namespace {

#ifdef __linux__
/** "32K", "1024K", "32M" as the kernel writes cache sizes. */
uint64_t parseSize(const std::string& text) {
  uint64_t value = 0;
  for (char c : text) {
    if (c >= '0' && c <= '9') value = value * 10 + static_cast<uint64_t>(c - '0');
    if (c == 'K') return value << 10;
    if (c == 'M') return value << 20;
  }
  return value;
}

std::string firstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

void readCaches(CpuInfo& info) {
  for (int index = 0; index < 8; index++) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const std::string level = firstLine(folder + "level");
    if (level.empty()) break;
    if (firstLine(folder + "type") == "Instruction") continue;
    const uint64_t bytes = parseSize(firstLine(folder + "size"));
    if (level == "1") info.l1dBytes = bytes;
    if (level == "2") info.l2Bytes = bytes;
    if (level == "3") info.l3Bytes = bytes;
  }
}

std::string cpuinfoField(const std::string& name) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, name.size(), name) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}
#endif

#ifdef __APPLE__
uint64_t sysctlNumber(const char* name) {
  uint64_t value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}
#endif

void readFeatures(CpuInfo& info) {
#if defined(__x86_64__) || defined(__i386__)
  // The compiler's own test: it also asks the operating system whether it saves the wide registers.
  __builtin_cpu_init();
#define TUTTI_FEATURE(name) \
  if (__builtin_cpu_supports(name)) info.features.emplace_back(name);
  TUTTI_FEATURE("sse4.2")
  TUTTI_FEATURE("popcnt")
  TUTTI_FEATURE("avx")
  TUTTI_FEATURE("avx2")
  TUTTI_FEATURE("fma")
  TUTTI_FEATURE("bmi2")
  TUTTI_FEATURE("avx512f")
  TUTTI_FEATURE("avx512bw")
  TUTTI_FEATURE("avx512dq")
  TUTTI_FEATURE("avx512vl")
  TUTTI_FEATURE("avx512vnni")
#undef TUTTI_FEATURE
#elif defined(__aarch64__)
  info.features = {"neon", "fma"};  // both are part of the architecture
#if defined(__APPLE__)
  if (sysctlNumber("hw.optional.arm.FEAT_DotProd") != 0) info.features.emplace_back("dotprod");
  if (sysctlNumber("hw.optional.arm.FEAT_I8MM") != 0) info.features.emplace_back("i8mm");
#elif defined(__linux__)
  // HWCAP_ASIMDDP and HWCAP2_I8MM, which older headers do not name.
  if ((getauxval(AT_HWCAP) >> 20 & 1) != 0) info.features.emplace_back("dotprod");
  if ((getauxval(AT_HWCAP2) >> 13 & 1) != 0) info.features.emplace_back("i8mm");
#endif
#endif
}

}  // namespace

CpuInfo readCpuInfo() {
  CpuInfo info;
  utsname system{};
  if (uname(&system) == 0) info.architecture = system.machine;
  info.cores = std::max(1u, std::thread::hardware_concurrency());
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long pageBytes = sysconf(_SC_PAGESIZE);
  if (pages > 0 && pageBytes > 0) info.memoryBytes = static_cast<uint64_t>(pages) * static_cast<uint64_t>(pageBytes);
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) info.cores = std::max(1, CPU_COUNT(&set));
  // A container's limit is what can be used.
  const std::string limit = firstLine("/sys/fs/cgroup/memory.max");
  if (!limit.empty() && limit != "max") {
    const uint64_t bytes = parseSize(limit);
    if (bytes > 0 && (info.memoryBytes == 0 || bytes < info.memoryBytes)) info.memoryBytes = bytes;
  }
  info.model = cpuinfoField("model name");
  readCaches(info);
#endif
#ifdef __APPLE__
  char brand[128] = {};
  size_t size = sizeof brand - 1;
  if (sysctlbyname("machdep.cpu.brand_string", brand, &size, nullptr, 0) == 0) info.model = brand;
  info.memoryBytes = sysctlNumber("hw.memsize");
  info.l1dBytes = sysctlNumber("hw.l1dcachesize");
  info.l2Bytes = sysctlNumber("hw.l2cachesize");
  info.l3Bytes = sysctlNumber("hw.l3cachesize");
#endif
  if (info.model.empty()) info.model = info.architecture;
  readFeatures(info);
  return info;
}

}  // namespace tutti::cpu

#endif  // _WIN32
