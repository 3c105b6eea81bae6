// The vulkan driver as an object of the add-on.

#include "vulkan.h"

#include "../common/driver.h"

#ifdef TUTTI_NO_VULKAN_HEADERS

namespace tutti {

namespace {

class NotBuilt final : public gpu::Driver {
 public:
  std::string whyNot(const std::string&) const override {
    return "the add-on was built without the Vulkan headers: install them (Debian: libvulkan-dev) and run "
           "`npm run build`";
  }
  std::vector<gpu::DeviceFacts> enumerate(const std::string&) const override { return {}; }
  std::shared_ptr<gpu::Device> open(const std::string&, const std::string&, const gpu::OpenOptions&) const override {
    return nullptr;
  }
};

}  // namespace

Napi::Object InitVulkan(Napi::Env env) {
  static const NotBuilt& driver = *new NotBuilt;
  return gpu::driverObject(env, driver);
}

}  // namespace tutti

#else

#include <cstdio>
#include <filesystem>

#include "device.h"

namespace tutti {

namespace vulkan {
namespace {

/** Where the pipelines of this device and driver are kept. */
std::string cacheFile(const std::string& folder, const DeviceFacts& facts) {
  if (folder.empty()) return "";
  char version[16];
  std::snprintf(version, sizeof version, "%x", static_cast<unsigned>(facts.driverVersion));
  const auto path = std::filesystem::u8path(folder) / (facts.id + "-" + version + ".bin");
  const auto text = path.u8string();
  return {text.begin(), text.end()};
}

/** A library is an ICD file here. */
class Driver final : public gpu::Driver {
 public:
  std::string whyNot(const std::string& icd) const override {
    const auto instance = instanceFor(icd);
    if (!enumerateDevices(*instance).empty()) return "";
    return icd.empty() ? "the Vulkan loader found no device with Vulkan 1.1 and a compute queue: install a driver "
                         "(Debian: mesa-vulkan-drivers)"
                       : "the driver named by TUTTI_VULKAN_ICD offers no device: " + icd;
  }

  std::vector<gpu::DeviceFacts> enumerate(const std::string& icd) const override {
    return gpu::onlyFacts(enumerateDevices(*instanceFor(icd)));
  }

  std::shared_ptr<gpu::Device> open(const std::string& icd, const std::string& id,
                                    const gpu::OpenOptions& options) const override {
    const auto instance = instanceFor(icd);
    for (DeviceFacts& facts : enumerateDevices(*instance)) {
      if (facts.id != id) continue;
      const std::string file = cacheFile(options.cache, facts);
      return std::make_shared<Device>(instance, std::move(facts), file, options.staging);
    }
    return nullptr;
  }
};

}  // namespace
}  // namespace vulkan

Napi::Object InitVulkan(Napi::Env env) {
  static const vulkan::Driver& driver = *new vulkan::Driver;
  return gpu::driverObject(env, driver);
}

}  // namespace tutti

#endif
