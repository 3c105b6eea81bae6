// The metal driver as an object of the add-on.

#include "metal.h"

#include "device.h"

namespace tutti {

namespace metal {
namespace {

class Driver final : public gpu::Driver {
 public:
  std::string whyNot(const std::string& library) const override {
    std::vector<std::string> tooOld;
    if (!enumerateDevices(openRuntime(library), &tooOld).empty()) return "";
    std::string reason;
    for (const std::string& sentence : tooOld) reason += (reason.empty() ? "" : "; ") + sentence;
    return reason.empty() ? "Metal finds no device" : reason;
  }

  std::vector<gpu::DeviceFacts> enumerate(const std::string& library) const override {
    return gpu::onlyFacts(enumerateDevices(openRuntime(library)));
  }

  std::shared_ptr<gpu::Device> open(const std::string& library, const std::string& id,
                                    const gpu::OpenOptions& options) const override {
    const Runtime& runtime = openRuntime(library);
    for (DeviceFacts& facts : enumerateDevices(runtime))
      if (facts.id == id) return std::make_shared<Device>(runtime, std::move(facts), options);
    return nullptr;
  }
};

}  // namespace
}  // namespace metal

Napi::Object InitMetal(Napi::Env env) {
  static const metal::Driver& driver = *new metal::Driver;
  return gpu::driverObject(env, driver);
}

}  // namespace tutti
