// The vulkan driver: registration.

#include "vulkan.h"

namespace tutti {

Napi::Object InitVulkan(Napi::Env env) { return Napi::Object::New(env); }

}  // namespace tutti
