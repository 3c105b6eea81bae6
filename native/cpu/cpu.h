// The cpu driver's public face in the add-on.

#pragma once

#include <napi.h>

namespace tutti {

/** The object that becomes `addon.cpu`. */
Napi::Object InitCpu(Napi::Env env);

}  // namespace tutti
