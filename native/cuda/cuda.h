// The cuda driver's public face in the add-on.

#pragma once

#include <napi.h>

namespace tutti {

/** The object that becomes `addon.cuda`. */
Napi::Object InitCuda(Napi::Env env);

}  // namespace tutti
