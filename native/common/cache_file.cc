// Files of a cache on disk: see cache_file.h.

#include "cache_file.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>

namespace tutti {

namespace {
namespace fs = std::filesystem;
}

uint64_t fnv1a(const void* data, size_t bytes, uint64_t state) {
  const auto* at = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; ++i) state = (state ^ at[i]) * 0x100000001b3ull;
  return state;
}

std::string cacheFile(const std::string& folder, std::initializer_list<std::string_view> texts, const char* extension) {
  uint64_t first = kFnvOffset, second = 0x84222325cbf29ce4ull;
  // Between texts a byte that UTF-8 does not have: "ab", "c" is not "a", "bc".
  const uint8_t end = 0xff;
  for (const std::string_view text : texts) {
    first = fnv1a(&end, 1, fnv1a(text.data(), text.size(), first));
    second = fnv1a(&end, 1, fnv1a(text.data(), text.size(), second));
  }
  char name[33];
  std::snprintf(name, sizeof name, "%016llx%016llx", static_cast<unsigned long long>(first),
                static_cast<unsigned long long>(second));
  const auto path = (fs::u8path(folder) / (std::string(name) + extension)).u8string();
  return {path.begin(), path.end()};
}

std::string temporaryFor(const std::string& file, const void* owner) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  return file + "." + std::to_string(reinterpret_cast<uintptr_t>(owner) ^ static_cast<uintptr_t>(now)) + ".tmp";
}

bool writeWhole(const std::string& file, std::initializer_list<std::string_view> parts) {
  const fs::path target = fs::u8path(file), temporary = fs::u8path(temporaryFor(file, &parts));
  std::error_code failed, ignored;
  fs::create_directories(target.parent_path(), ignored);
  bool whole = false;
  {
    std::ofstream stream(temporary, std::ios::binary | std::ios::trunc);
    for (const std::string_view part : parts) stream.write(part.data(), static_cast<std::streamsize>(part.size()));
    stream.close();
    whole = !stream.fail();
  }
  if (whole) fs::rename(temporary, target, failed);
  fs::remove(temporary, ignored);
  return whole && !failed;
}

}  // namespace tutti
