// Machine code on disk: see cubins.h.

#include "cubins.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "../common/cache_file.h"

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

}  // namespace

CUmodule Cubins::load(const std::string& ptx) const {
  if (folder_.empty() || api_.cuLinkCreate == nullptr || api_.cuLinkAddData == nullptr ||
      api_.cuLinkComplete == nullptr || api_.cuLinkDestroy == nullptr)
    return nullptr;
  try {
    const std::string file = cacheFile(folder_, {origin_, ptx}, ".cubin");
    if (CUmodule module = read(file, ptx)) return module;
    return link(file, ptx);
  } catch (const std::exception&) {
    return nullptr;
  }
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
  if (fnv1a(code.data(), code.size()) != header.codeHash) return nullptr;
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

void Cubins::write(const std::string& file, const std::string& ptx, const void* code, size_t bytes) const {
  Header header;
  header.ptxBytes = ptx.size();
  header.codeBytes = bytes;
  header.codeHash = fnv1a(code, bytes);
  writeWhole(file, {bytesOf(header), {static_cast<const char*>(code), bytes}});
}

}  // namespace tutti::cuda
