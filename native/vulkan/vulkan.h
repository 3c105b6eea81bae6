// The vulkan driver's public face in the add-on.

#pragma once

#include <napi.h>

namespace tutti {

/** The object that becomes `addon.vulkan`. */
Napi::Object InitVulkan(Napi::Env env);

}  // namespace tutti
