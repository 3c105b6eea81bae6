// What a GPU driver is to JavaScript: one object of functions, the same for all. Checks of user mistakes live in
// backends/common; here a wrong handle throws rather than crashes.

#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device.h"

namespace tutti::gpu {

/** What a device is and offers: the native half of `DeviceInfo`. */
struct DeviceFacts {
  std::string id;  // without the backend's name
  std::string name;
  std::string driver;
  /** A GPU API executed on a CPU. */
  bool software = false;
  uint64_t memoryBytes = 0;
  std::vector<std::string> features;
  std::vector<std::pair<std::string, double>> limits;

  void limit(std::string what, double value) { limits.emplace_back(std::move(what), value); }
};

struct OpenOptions {
  /** Folder for compiled kernels, or empty. */
  std::string cache;
  /** Transfers take the way of devices whose memory the host does not see. */
  bool staging = false;
};

/** A driver library is meant by a path; empty: the system's. All functions are called off-thread and throw Error. */
class Driver {
 public:
  virtual ~Driver() = default;
  /** Empty, or in words why there is no device. */
  virtual std::string whyNot(const std::string& library) const = 0;
  virtual std::vector<DeviceFacts> enumerate(const std::string& library) const = 0;
  /** Not yet started; null if no device has the id. */
  virtual std::shared_ptr<Device> open(const std::string& library, const std::string& id,
                                       const OpenOptions& options) const = 0;
};

/** The object that becomes `addon.<name>`. `driver` must live as long as the process. */
Napi::Object driverObject(Napi::Env env, const Driver& driver);

/** What JavaScript sees of devices that a driver knows more about. */
template <class Facts>
std::vector<DeviceFacts> onlyFacts(const std::vector<Facts>& devices) {
  return {devices.begin(), devices.end()};
}

}  // namespace tutti::gpu
