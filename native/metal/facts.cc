// Describes devices: see facts.h.

#include "facts.h"

#include <cstdlib>

namespace tutti::metal {

namespace {

/** Names as `DeviceInfo.features` has them. */
struct Family {
  const char* name;
  NSInteger value;
};
constexpr Family kFamilies[] = {
    {"apple1", 1001}, {"apple2", 1002}, {"apple3", 1003},  {"apple4", 1004}, {"apple5", 1005},
    {"apple6", 1006}, {"apple7", 1007}, {"apple8", 1008},  {"apple9", 1009}, {"apple10", 1010},
    {"mac2", 2002},   {"common3", 3003}, {"metal3", 5001}, {"metal4", 5002},
};
/** A device must be of one of these: SIMD-groups, indirect command buffers and 64-bit integers are there. */
constexpr NSInteger kLeastFamilies[] = {1007, 2002, 5001};

/** bfloat came with MSL 3.1, which is macOS 14's. `system`: "Version 14.2 (Build 23C64)". */
bool compilesBfloat(const std::string& system) {
  const size_t at = system.find_first_of("0123456789");
  return at != std::string::npos && std::atoi(system.c_str() + at) >= 14;
}

}  // namespace

id timestampCounters(const Runtime& rt, id device) {
  if (!rt.responds(device, rt.send.supportsCounterSampling)) return nullptr;
  if (!rt.send.supportsCounterSampling(device, kSamplingAtStageBoundary)) return nullptr;
  id sets = rt.send.counterSets(device);
  for (NSUInteger i = 0, count = rt.send.count(sets); i < count; ++i) {
    id set = rt.send.objectAtIndex(sets, i);
    if (rt.text(rt.send.name(set)) == kTimestampCounterSet) return set;
  }
  return nullptr;
}

std::vector<DeviceFacts> enumerateDevices(const Runtime& rt, std::vector<std::string>* tooOld) {
  const AutoreleasePool pool(rt);
  id process = rt.send.processInfo(rt.classes.NSProcessInfo);
  const std::string system = rt.text(rt.send.operatingSystemVersionString(process));
  const Ref all = Ref::adopt(rt, rt.MTLCopyAllDevices());
  std::vector<DeviceFacts> devices;
  for (NSUInteger i = 0, count = rt.send.count(all.get()); i < count; ++i) {
    id device = rt.send.objectAtIndex(all.get(), i);
    DeviceFacts facts;
    facts.device = Ref::retain(rt, device);
    facts.name = rt.text(rt.send.name(device));
    bool usable = false;
    for (NSInteger family : kLeastFamilies) usable = usable || rt.send.supportsFamily(device, family);
    if (!usable) {
      if (tooOld) tooOld->push_back(facts.name + " is of none of the GPU families apple7, mac2 and metal3, nor later");
      continue;
    }
    facts.id = std::to_string(rt.send.registryID(device));
    facts.driver = "Metal, macOS " + system;
    facts.unified = rt.send.hasUnifiedMemory(device);
    facts.counters = timestampCounters(rt, device) != nullptr;
    const uint64_t largest = rt.send.maxBufferLength(device);
    const uint64_t working = rt.send.recommendedMaxWorkingSetSize(device);
    facts.memoryBytes = working != 0 ? working : largest;
    for (const Family& family : kFamilies)
      if (rt.send.supportsFamily(device, family.value)) facts.features.emplace_back(family.name);
    if (facts.unified) facts.features.emplace_back("unifiedMemory");
    if (rt.send.isLowPower(device)) facts.features.emplace_back("lowPower");
    if (facts.counters) facts.features.emplace_back("counters");
    facts.features.emplace_back("timestamps");
    if (compilesBfloat(system)) facts.features.emplace_back("bfloat");
    const MTLSize threads = rt.send.maxThreadsPerThreadgroup(device);
    facts.limit("maxThreadsPerThreadgroupWidth", static_cast<double>(threads.width));
    facts.limit("maxThreadsPerThreadgroupHeight", static_cast<double>(threads.height));
    facts.limit("maxThreadsPerThreadgroupDepth", static_cast<double>(threads.depth));
    facts.limit("maxThreadgroupMemoryLength", static_cast<double>(rt.send.maxThreadgroupMemoryLength(device)));
    facts.limit("maxBufferLength", static_cast<double>(largest));
    facts.limit("recommendedMaxWorkingSetSize", static_cast<double>(working));
    devices.push_back(std::move(facts));
  }
  return devices;
}

}  // namespace tutti::metal
