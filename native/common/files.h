// Files in memory without copies.
#pragma once

#include <napi.h>

namespace tutti {

// { map(path) → ArrayBuffer }: the file's bytes, read by the system when they are touched. Writes through the buffer
// stay private. Throws an Error with `code` where the file cannot be mapped.
Napi::Object InitFiles(Napi::Env env);

}  // namespace tutti
