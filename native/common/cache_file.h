// Files of a cache on disk: named by content, written whole or not at all, since other processes may read them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace tutti {

constexpr uint64_t kFnvOffset = 0xcbf29ce484222325ull;

/** FNV-1a. */
uint64_t fnv1a(const void* data, size_t bytes, uint64_t state = kFnvOffset);

/** The file in `folder` for what these texts together decide; `extension` with its dot. */
std::string cacheFile(const std::string& folder, std::initializer_list<std::string_view> texts, const char* extension);

/** A name beside `file` that nobody else takes. `owner`: an address of the caller's. */
std::string temporaryFor(const std::string& file, const void* owner);

/** The parts one after the other. False, and nothing left behind, where the disk does not play along. */
bool writeWhole(const std::string& file, std::initializer_list<std::string_view> parts);

/** The bytes of a plain struct. */
template <class T>
std::string_view bytesOf(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace tutti
