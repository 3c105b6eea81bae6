// Modules: PTX to kernels with the JIT log, module variables in device memory, function attributes.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver.h"

namespace vcuda {
namespace {

constexpr int kNewestPtx = 90;

/** What this device's linker calls machine code: the PTX, marked. */
constexpr std::string_view kCubin = "VIRTUAL-CUBIN\n";

/** The JIT options that have an effect here. */
struct JitOptions {
  char* errorLog = nullptr;
  size_t errorBytes = 0;
  char* infoLog = nullptr;
  size_t infoBytes = 0;
  void** errorSize = nullptr;
  void** infoSize = nullptr;
  void** wallTime = nullptr;
};

JitOptions readOptions(unsigned count, const int* options, void** values) {
  JitOptions o;
  for (unsigned i = 0; i < count; ++i) {
    switch (options[i]) {
      case 2: o.wallTime = &values[i]; break;
      case 3: o.infoLog = static_cast<char*>(values[i]); break;
      case 4: o.infoBytes = reinterpret_cast<size_t>(values[i]) & 0xffffffffu; o.infoSize = &values[i]; break;
      case 5: o.errorLog = static_cast<char*>(values[i]); break;
      case 6: o.errorBytes = reinterpret_cast<size_t>(values[i]) & 0xffffffffu; o.errorSize = &values[i]; break;
      default: break;
    }
  }
  return o;
}

void putLog(char* log, size_t bytes, void** size, const std::string& text) {
  if (log && bytes) {
    const size_t n = std::min(bytes - 1, text.size());
    std::memcpy(log, text.data(), n);
    log[n] = '\0';
    if (size) *size = reinterpret_cast<void*>(n);
  }
}

void checkTarget(const Module& m, int sm) {
  if (m.version > kNewestPtx)
    throw PtxTargetError(1, "PTX .version " + std::to_string(m.version / 10) + "." + std::to_string(m.version % 10) + " is newer than this device's " + std::to_string(kNewestPtx / 10) + "." + std::to_string(kNewestPtx % 10), true);
  if (m.addressBits != 64) throw PtxError(1, ".address_size 64 is needed");
  const int target = std::atoi(m.target.c_str() + 3);
  const bool specific = m.target.back() == 'a', family = m.target.back() == 'f';
  if (specific ? target != sm : family ? target / 10 != sm / 10 || target > sm : target > sm)
    throw PtxTargetError(1, ".target " + m.target + " does not run on a device of compute capability " + std::to_string(sm / 10) + "." + std::to_string(sm % 10), false);
}

std::unique_ptr<LoadedModule> load(Context& context, std::string_view text) {
  auto loaded = std::make_unique<LoadedModule>();
  auto parsed = std::make_shared<const Module>(parseModule(text));
  loaded->parsed = parsed;
  checkTarget(*parsed, device().sm);
  try {
    for (const Variable& v : parsed->variables) {
      if (v.space != Space::Global && v.space != Space::Const) continue;
      if (v.external && v.bytes == 0) throw PtxError(v.line, "the external variable " + v.name + " is not defined in this module");
      const uint64_t address = context.memory.allocate(std::max<uint64_t>(v.bytes, 1), "module variable");
      if (!address) throw std::bad_alloc();
      loaded->allocations.push_back(address);
      loaded->symbols[v.name] = address;
      loaded->sizes[v.name] = v.bytes;
    }
    for (const Variable& v : parsed->variables) {
      const auto at = loaded->symbols.find(v.name);
      if (at == loaded->symbols.end()) continue;
      uint8_t* host = reinterpret_cast<uint8_t*>(at->second & kHostMask);
      std::memset(host, 0, v.bytes);
      std::memcpy(host, v.data.data(), v.data.size());
      for (const Relocation& r : v.relocations) {
        const auto symbol = loaded->symbols.find(r.symbol);
        if (symbol == loaded->symbols.end()) throw PtxError(v.line, "the initialiser of " + v.name + " names " + r.symbol + ", which is no .global variable");
        const uint64_t value = symbol->second + uint64_t(r.addend);
        std::memcpy(host + r.at, &value, size_t(r.bytes));
      }
    }
    for (const Function& f : parsed->functions) {
      if (!f.entry) continue;
      auto function = std::make_unique<LoadedFunction>();
      function->module = loaded.get();
      function->kernel = lowerKernel(parsed, f, loaded->symbols);
      if (function->kernel.staticShared > 49152) throw PtxError(f.line, "the entry " + f.name + " has " + std::to_string(function->kernel.staticShared) + " bytes of static shared memory, at most 49152 are possible");
      function->mostDynamicShared = 49152 - function->kernel.staticShared;
      loaded->functions[f.name] = std::move(function);
    }
  } catch (...) {
    for (const uint64_t a : loaded->allocations) context.memory.release(a, true);
    throw;
  }
  return loaded;
}

}  // namespace

void unloadModule(Context& context, LoadedModule& m) {
  for (const uint64_t a : m.allocations) context.memory.release(a, true);
  for (const auto& [name, f] : m.functions) context.functions.erase(f.get());
}

LoadedFunction* findFunction(Context& context, const void* handle) {
  std::lock_guard lock(context.mutex);
  const auto it = context.functions.find(static_cast<const LoadedFunction*>(handle));
  return it == context.functions.end() ? nullptr : const_cast<LoadedFunction*>(*it);
}

}  // namespace vcuda

using namespace vcuda;

API int cuDeviceGetAttribute(int* value, int attribute, int device);
API int cuModuleUnload(LoadedModule* module);
API int cuCtxSynchronize();

API int cuModuleLoadDataEx(LoadedModule** module, const void* image, unsigned count, int* options, void** values) {
  Context* context;
  if (const int e = enter(context)) return e;
  if (!module || !image) return kInvalidValue;
  const auto start = std::chrono::steady_clock::now();
  const JitOptions jit = readOptions(count, options, values);
  const char* text = static_cast<const char*>(image);
  if (std::memcmp(text, kCubin.data(), kCubin.size()) == 0) text += kCubin.size();
  if (std::memcmp(text, "\x7f" "ELF", 4) == 0 || uint32_t(*static_cast<const uint32_t*>(image)) == 0xBA55ED50u) {
    putLog(jit.errorLog, jit.errorBytes, jit.errorSize, "this device executes PTX only; the image is a binary");
    return kNoBinaryForGpu;
  }
  try {
    auto loaded = load(*context, text);
    std::lock_guard lock(context->mutex);
    for (const auto& [name, f] : loaded->functions) context->functions.insert(f.get());
    *module = loaded.get();
    context->modules[loaded.get()] = std::move(loaded);
    putLog(jit.infoLog, jit.infoBytes, jit.infoSize, "");
    putLog(jit.errorLog, jit.errorBytes, jit.errorSize, "");
    if (jit.wallTime) {
      const float ms = std::chrono::duration<float, std::milli>(std::chrono::steady_clock::now() - start).count();
      std::memcpy(jit.wallTime, &ms, 4);
    }
    return kSuccess;
  } catch (const PtxTargetError& e) {
    putLog(jit.errorLog, jit.errorBytes, jit.errorSize, "ptxas application ptx input, line " + std::to_string(e.line) + "; fatal   : " + e.what());
    return e.version ? kUnsupportedPtxVersion : kNoBinaryForGpu;
  } catch (const PtxError& e) {
    putLog(jit.errorLog, jit.errorBytes, jit.errorSize, "ptxas application ptx input, line " + std::to_string(e.line) + "; error   : " + e.what());
    return kInvalidPtx;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  } catch (const std::exception& e) {
    putLog(jit.errorLog, jit.errorBytes, jit.errorSize, std::string("error   : ") + e.what());
    return kInvalidPtx;
  }
}

// The linker of the JIT: one input of PTX, checked when it is added.

struct LinkState {
  std::string code;
};

API int cuLinkCreate_v2(unsigned, int*, void**, LinkState** state) {
  Context* context;
  if (const int e = enter(context)) return e;
  if (!state) return kInvalidValue;
  *state = new LinkState;
  return kSuccess;
}

API int cuLinkAddData_v2(LinkState* state, int type, void* data, size_t bytes, const char*, unsigned, int*, void**) {
  Context* context;
  if (const int e = enter(context)) return e;
  constexpr int kPtx = 1;
  if (!state || type != kPtx || !data || bytes == 0 || !state->code.empty()) return kInvalidValue;
  LoadedModule* module = nullptr;
  const std::string text(static_cast<const char*>(data), bytes);
  if (const int e = cuModuleLoadDataEx(&module, text.c_str(), 0, nullptr, nullptr)) return e;
  cuModuleUnload(module);
  state->code = std::string(kCubin) + text;
  return kSuccess;
}

API int cuLinkComplete(LinkState* state, void** code, size_t* bytes) {
  if (!state || !code || !bytes || state->code.empty()) return kInvalidValue;
  *code = state->code.data();
  *bytes = state->code.size();
  return kSuccess;
}

API int cuLinkDestroy(LinkState* state) {
  delete state;
  return kSuccess;
}

API int cuModuleLoadData(LoadedModule** module, const void* image) { return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr); }

API int cuModuleUnload(LoadedModule* module) {
  Context* context;
  if (const int e = enter(context)) return e;
  cuCtxSynchronize();  // work that uses its kernels may still be queued
  std::lock_guard lock(context->mutex);
  const auto it = context->modules.find(module);
  if (it == context->modules.end()) return kInvalidHandle;
  unloadModule(*context, *it->second);
  context->modules.erase(it);
  return kSuccess;
}

API int cuModuleGetFunction(LoadedFunction** function, LoadedModule* module, const char* name) {
  Context* context;
  if (const int e = enter(context)) return e;
  if (!function || !name) return kInvalidValue;
  std::lock_guard lock(context->mutex);
  const auto it = context->modules.find(module);
  if (it == context->modules.end()) return kInvalidHandle;
  const auto f = it->second->functions.find(name);
  if (f == it->second->functions.end()) return kNotFound;
  *function = f->second.get();
  return kSuccess;
}

API int cuModuleGetFunctionCount(unsigned* count, LoadedModule* module) {
  Context* context;
  if (const int e = enter(context)) return e;
  std::lock_guard lock(context->mutex);
  const auto it = context->modules.find(module);
  if (it == context->modules.end()) return kInvalidHandle;
  *count = unsigned(it->second->functions.size());
  return kSuccess;
}

API int cuModuleGetGlobal_v2(uint64_t* address, size_t* bytes, LoadedModule* module, const char* name) {
  Context* context;
  if (const int e = enter(context)) return e;
  std::lock_guard lock(context->mutex);
  const auto it = context->modules.find(module);
  if (it == context->modules.end()) return kInvalidHandle;
  const auto s = it->second->symbols.find(name);
  if (s == it->second->symbols.end()) return kNotFound;
  if (address) *address = s->second;
  if (bytes) *bytes = it->second->sizes[name];
  return kSuccess;
}

API int cuModuleGetLoadingMode(int* mode) {
  *mode = 1;  // CU_MODULE_EAGER_LOADING
  return kSuccess;
}

API int cuFuncGetAttribute(int* value, int attribute, LoadedFunction* handle) {
  Context* context;
  if (const int e = enter(context)) return e;
  LoadedFunction* f = findFunction(*context, handle);
  if (!f) return kInvalidHandle;
  if (!value) return kInvalidValue;
  const Kernel& k = f->kernel;
  const int registers = std::clamp(k.registersPerThread, 8, 255);
  switch (attribute) {
    case 0: *value = int(k.maxThreads); return kSuccess;                  // MAX_THREADS_PER_BLOCK
    case 1: *value = int(k.staticShared); return kSuccess;                // SHARED_SIZE_BYTES
    case 2: *value = 0; return kSuccess;                                  // CONST_SIZE_BYTES
    case 3: *value = int(k.localBytes); return kSuccess;                  // LOCAL_SIZE_BYTES
    case 4: *value = registers; return kSuccess;                          // NUM_REGS
    case 5: *value = std::atoi(k.module->target.c_str() + 3); return kSuccess;  // PTX_VERSION
    case 6: *value = device().sm; return kSuccess;                        // BINARY_VERSION
    case 7: *value = 0; return kSuccess;                                  // CACHE_MODE_CA
    case 8: *value = int(f->mostDynamicShared); return kSuccess;          // MAX_DYNAMIC_SHARED_SIZE_BYTES
    case 9: *value = f->carveout; return kSuccess;                        // PREFERRED_SHARED_MEMORY_CARVEOUT
    case 10: *value = k.requiredCluster[0] != 0; return kSuccess;         // CLUSTER_SIZE_MUST_BE_SET
    case 11: case 12: case 13: *value = int(k.requiredCluster[attribute - 11]); return kSuccess;
    case 14: *value = f->nonPortableCluster; return kSuccess;
    default: return kInvalidValue;
  }
}

API int cuFuncSetAttribute(LoadedFunction* handle, int attribute, int value) {
  Context* context;
  if (const int e = enter(context)) return e;
  LoadedFunction* f = findFunction(*context, handle);
  if (!f) return kInvalidHandle;
  if (attribute == 8) {
    int most = 0;
    cuDeviceGetAttribute(&most, 97, 0);  // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    if (value < 0 || uint32_t(value) + f->kernel.staticShared > uint32_t(most)) return kInvalidValue;
    f->mostDynamicShared = uint32_t(value);
    return kSuccess;
  }
  if (attribute == 9) {
    f->carveout = value;
    return kSuccess;
  }
  if (attribute == 14) {
    f->nonPortableCluster = value;
    return kSuccess;
  }
  return kInvalidValue;
}

API int cuFuncSetCacheConfig(LoadedFunction*, int) { return kSuccess; }

API int cuFuncGetName(const char** name, LoadedFunction* handle) {
  Context* context;
  if (const int e = enter(context)) return e;
  LoadedFunction* f = findFunction(*context, handle);
  if (!f) return kInvalidHandle;
  *name = f->kernel.name.c_str();
  return kSuccess;
}

API int cuFuncGetParamInfo(LoadedFunction* handle, size_t index, size_t* offset, size_t* bytes) {
  Context* context;
  if (const int e = enter(context)) return e;
  LoadedFunction* f = findFunction(*context, handle);
  if (!f) return kInvalidHandle;
  if (index >= f->kernel.parameters.size()) return kInvalidValue;
  *offset = f->kernel.parameters[index].at;
  if (bytes) *bytes = f->kernel.parameters[index].bytes;
  return kSuccess;
}

API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, LoadedFunction* handle, int threads, size_t shared) {
  Context* context;
  if (const int e = enter(context)) return e;
  LoadedFunction* f = findFunction(*context, handle);
  if (!f || threads < 1) return f ? kInvalidValue : kInvalidHandle;
  const int perThread = std::clamp(f->kernel.registersPerThread, 8, 255);
  const size_t bytes = std::max<size_t>(1, shared + f->kernel.staticShared + 1024);
  *blocks = int(std::min<size_t>({size_t(32), size_t(2048 / threads), size_t(65536 / (perThread * threads)), 233472 / bytes}));
  return kSuccess;
}
