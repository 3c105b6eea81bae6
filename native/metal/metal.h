// The metal driver's public face in the add-on.

#pragma once

#include <napi.h>

namespace tutti {

/** The object that becomes `addon.metal`. */
Napi::Object InitMetal(Napi::Env env);

}  // namespace tutti
