// The cuda driver as an object of the add-on.

#include "cuda.h"

#include "device.h"

namespace tutti {

namespace cuda {
namespace {

class Driver final : public gpu::Driver {
 public:
  std::string whyNot(const std::string& library) const override {
    std::vector<std::string> tooOld;
    if (!enumerateDevices(*openApi(library), &tooOld).empty()) return "";
    std::string reason;
    for (const std::string& sentence : tooOld) reason += (reason.empty() ? "" : "; ") + sentence;
    return reason.empty() ? "the NVIDIA driver finds no device" : reason;
  }

  std::vector<gpu::DeviceFacts> enumerate(const std::string& library) const override {
    return gpu::onlyFacts(enumerateDevices(*openApi(library)));
  }

  std::shared_ptr<gpu::Device> open(const std::string& library, const std::string& id,
                                    const gpu::OpenOptions& options) const override {
    const auto api = openApi(library);
    for (DeviceFacts& facts : enumerateDevices(*api))
      if (facts.id == id) return std::make_shared<Device>(api, std::move(facts), options.cache);
    return nullptr;
  }
};

}  // namespace
}  // namespace cuda

Napi::Object InitCuda(Napi::Env env) {
  static const cuda::Driver& driver = *new cuda::Driver;
  return gpu::driverObject(env, driver);
}

}  // namespace tutti
