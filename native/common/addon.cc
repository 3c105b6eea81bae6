// The add-on's entry point: one sub-object a driver, `{ files, cpu, vulkan, cuda, metal }`. A driver that cannot work
// on this machine still registers and says why when it is probed; loading the add-on never fails because of a missing
// GPU.

#include <napi.h>

#include "../cpu/cpu.h"
#include "../cuda/cuda.h"
#include "../metal/metal.h"
#include "../vulkan/vulkan.h"
#include "files.h"

namespace tutti {

static Napi::Object InitAddon(Napi::Env env, Napi::Object exports) {
  exports.Set("files", InitFiles(env));
  exports.Set("cpu", InitCpu(env));
  exports.Set("vulkan", InitVulkan(env));
  exports.Set("cuda", InitCuda(env));
  exports.Set("metal", InitMetal(env));
  return exports;
}

}  // namespace tutti

static Napi::Object InitModule(Napi::Env env, Napi::Object exports) { return tutti::InitAddon(env, exports); }

NODE_API_MODULE(tutti_native, InitModule)
