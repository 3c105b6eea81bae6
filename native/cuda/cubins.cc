// Machine code on disk: see cubins.h.

#include "cubins.h"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

namespace tutti::cuda {

namespace {

namespace fs = std::filesystem;

constexpr int kLinkPtx = 1;  // CU_JIT_INPUT_PTX

/** What stands before the code. */
struct Header {
  char magic[8] = {'T', 'U', 'T', 'T', 'I', 'C', 'B', '1'};
  uint64_t ptxBytes = 0;
  uint64_t codeBytes = 0;
  uint64_t codeHash = 0;
};

/** FNV-1a. */
uint64_t hash(uint64_t state, const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < bytes; ++i) state = (state ^ at[i]) * 0x100000001b3ull;
  return (state ^ 0xffu) * 0x100000001b3ull;
}
constexpr uint64_t kFirst = 0xcbf29ce484222325ull, kSecond = 0x84222325cbf29ce4ull;

}  // namespace

CUmodule Cubins::load(const std::string& ptx) const {
  if (folder_.empty() || api_.cuLinkCreate == nullptr || api_.cuLinkAddData == nullptr ||
      api_.cuLinkComplete == nullptr || api_.cuLinkDestroy == nullptr)
    return nullptr;
  try {
    const std::string file = fileFor(ptx);
    if (CUmodule module = read(file, ptx)) return module;
    return link(file, ptx);
  } catch (const std::exception&) {
    return nullptr;
  }
}

std::string Cubins::fileFor(const std::string& ptx) const {
  uint64_t first = kFirst, second = kSecond;
  for (const std::string* text : {&origin_, &ptx}) {
    first = hash(first, text->data(), text->size());
    second = hash(second, text->data(), text->size());
  }
  char name[64];
  std::snprintf(name, sizeof name, "%016llx%016llx.cubin", static_cast<unsigned long long>(first),
                static_cast<unsigned long long>(second));
  const auto path = (fs::u8path(folder_) / name).u8string();
  return {path.begin(), path.end()};
}

/** Null for files that are damaged, or that the driver does not take any more. */
CUmodule Cubins::read(const std::string& file, const std::string& ptx) const {
  std::ifstream stream(fs::u8path(file), std::ios::binary);
  Header header;
  const Header expected;
  if (!stream.read(reinterpret_cast<char*>(&header), sizeof header)) return nullptr;
  if (std::memcmp(header.magic, expected.magic, sizeof header.magic) != 0 || header.ptxBytes != ptx.size() ||
      header.codeBytes == 0 || header.codeBytes > (uint64_t(1) << 30))
    return nullptr;
  std::vector<char> code(header.codeBytes);
  if (!stream.read(code.data(), static_cast<std::streamsize>(code.size()))) return nullptr;
  if (hash(kFirst, code.data(), code.size()) != header.codeHash) return nullptr;
  CUmodule module = nullptr;
  return api_.cuModuleLoadDataEx(&module, code.data(), 0, nullptr, nullptr) == kSuccess ? module : nullptr;
}

CUmodule Cubins::link(const std::string& file, const std::string& ptx) const {
  CUlinkState state = nullptr;
  if (api_.cuLinkCreate(0, nullptr, nullptr, &state) != kSuccess) return nullptr;
  CUmodule module = nullptr;
  void* code = nullptr;
  size_t bytes = 0;
  // The code belongs to the state.
  if (api_.cuLinkAddData(state, kLinkPtx, const_cast<char*>(ptx.c_str()), ptx.size() + 1, "kernel", 0, nullptr,
                         nullptr) == kSuccess &&
      api_.cuLinkComplete(state, &code, &bytes) == kSuccess &&
      api_.cuModuleLoadDataEx(&module, code, 0, nullptr, nullptr) == kSuccess)
    write(file, ptx, code, bytes);
  else
    module = nullptr;
  api_.cuLinkDestroy(state);
  return module;
}

/** Whole or not at all: other processes may read it. */
void Cubins::write(const std::string& file, const std::string& ptx, const void* code, size_t bytes) const {
  const fs::path target = fs::u8path(file);
  std::error_code failed;
  fs::create_directories(target.parent_path(), failed);
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  const fs::path temporary =
      fs::u8path(file + "." + std::to_string(reinterpret_cast<uintptr_t>(code) ^ static_cast<uintptr_t>(now)) + ".tmp");
  Header header;
  header.ptxBytes = ptx.size();
  header.codeBytes = bytes;
  header.codeHash = hash(kFirst, code, bytes);
  bool whole = false;
  {
    std::ofstream stream(temporary, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(&header), sizeof header);
    stream.write(static_cast<const char*>(code), static_cast<std::streamsize>(bytes));
    stream.close();
    whole = !stream.fail();
  }
  if (whole) fs::rename(temporary, target, failed);
  fs::remove(temporary, failed);
}

}  // namespace tutti::cuda
