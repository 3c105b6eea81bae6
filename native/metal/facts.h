// What Metal says of a machine's devices.

#pragma once

#include <string>
#include <vector>

#include "../common/driver.h"
#include "runtime.h"

namespace tutti::metal {

struct DeviceFacts : gpu::DeviceFacts {  // id: the registry id, in decimal
  Ref device;
  /** Host and device share one memory. */
  bool unified = false;
  /** Timestamps can be taken at the ends of compute passes. */
  bool counters = false;
};

/** Devices that can run our code. `tooOld` gets a sentence for each that cannot. */
std::vector<DeviceFacts> enumerateDevices(const Runtime& runtime, std::vector<std::string>* tooOld = nullptr);

/** The counter set of timestamps, autoreleased, or nil. */
id timestampCounters(const Runtime& runtime, id device);

}  // namespace tutti::metal
