// The cpu driver: registration.

#include "cpu.h"

namespace tutti {

Napi::Object InitCpu(Napi::Env env) { return Napi::Object::New(env); }

}  // namespace tutti
