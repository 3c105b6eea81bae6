// Initialisation, the device and its attributes, contexts, error names, and cuGetProcAddress.
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver.h"

namespace vcuda {
namespace {

constexpr int kDriverVersion = 13000;

struct ErrorRow {
  int code;
  const char* name;
  const char* text;
};
constexpr ErrorRow kErrors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain"},
    {300, "CUDA_ERROR_INVALID_SOURCE", "device kernel image is invalid"},
    {301, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {708, "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", "cannot set while device is active in this process"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {710, "CUDA_ERROR_ASSERT", "device-side assert triggered"},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {717, "CUDA_ERROR_INVALID_ADDRESS_SPACE", "operation not supported on global/shared address space"},
    {718, "CUDA_ERROR_INVALID_PC", "invalid program counter"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "the graph update was not performed because it included changes which violated constraints specific to instantiated graph update"},
    {912, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "cluster misconfiguration"},
};

const unsigned char kUuid[16] = {0x7a, 0x11, 0x1c, 0xda, 0x56, 0x49, 0x52, 0x54, 0x55, 0x41, 0x4c, 0x43, 0x55, 0x44, 0x41, 0x01};

thread_local std::vector<Context*> stack;

}  // namespace

Device& device() {
  static Device* d = new Device();  // never destroyed: stream threads may still run when the process ends
  return *d;
}

Context*& current() {
  thread_local Context* context = nullptr;
  return context;
}

void noteFault(Context& context, int code, const std::string& message) {
  int none = 0;
  const bool first = context.stuck.compare_exchange_strong(none, code);
  if (!first) return;
  {
    std::lock_guard lock(device().faultMutex);
    device().fault = message;
  }
  std::fprintf(stderr, "virtual CUDA: %s\n", message.c_str());
}

int enter(Context*& context) {
  Device& d = device();
  if (!d.initialised) return kNotInitialized;
  context = current();
  if (!context) return kInvalidContext;
  {
    std::lock_guard lock(d.mutex);
    if (context != d.primary.get()) return kContextDestroyed;
  }
  return context->stuck.load();
}

}  // namespace vcuda

using namespace vcuda;

/** Not of CUDA: the newest fault in words, with kernel, line, instruction, block and thread. */
API int cuTuttiGetLastFault(const char** text) {
  thread_local std::string copy;
  std::lock_guard lock(device().faultMutex);
  copy = device().fault;
  *text = copy.c_str();
  return kSuccess;
}

API int cuInit(unsigned flags) {
  if (flags) return kInvalidValue;
  Device& d = device();
  std::lock_guard lock(d.mutex);
  if (d.initialised) return kSuccess;
  if (const char* sm = std::getenv("TUTTI_VIRTUAL_CUDA_SM")) {
    // 90, 9.0 or sm_90
    int value = 0;
    for (const char* c = sm; *c; ++c)
      if (*c >= '0' && *c <= '9') value = value * 10 + (*c - '0');
    if (value < 50 || value > 130) return kInvalidDevice;
    d.sm = value;
  }
  if (const char* mebibytes = std::getenv("TUTTI_VIRTUAL_CUDA_MEMORY_MB")) d.memoryBytes = std::strtoull(mebibytes, nullptr, 10) << 20;
  d.initialised = true;
  return kSuccess;
}

API int cuDriverGetVersion(int* version) {
  if (!version) return kInvalidValue;
  *version = kDriverVersion;
  return kSuccess;
}

API int cuGetErrorName(int error, const char** text) {
  for (const ErrorRow& r : kErrors)
    if (r.code == error) {
      *text = r.name;
      return kSuccess;
    }
  *text = nullptr;
  return kInvalidValue;
}

API int cuGetErrorString(int error, const char** text) {
  for (const ErrorRow& r : kErrors)
    if (r.code == error) {
      *text = r.text;
      return kSuccess;
    }
  *text = nullptr;
  return kInvalidValue;
}

#define NEED_INIT() \
  if (!device().initialised) return kNotInitialized
#define NEED_DEVICE(d)                   \
  NEED_INIT();                           \
  if ((d) != 0) return kInvalidDevice

API int cuDeviceGetCount(int* count) {
  NEED_INIT();
  if (!count) return kInvalidValue;
  *count = 1;
  return kSuccess;
}

API int cuDeviceGet(int* out, int ordinal) {
  NEED_INIT();
  if (!out) return kInvalidValue;
  if (ordinal != 0) return kInvalidDevice;
  *out = 0;
  return kSuccess;
}

API int cuDeviceGetName(char* name, int length, int d) {
  NEED_DEVICE(d);
  if (!name || length < 1) return kInvalidValue;
  std::snprintf(name, size_t(length), "%s", "Tutti Virtual CUDA");
  return kSuccess;
}

API int cuDeviceGetUuid_v2(unsigned char* uuid, int d) {
  NEED_DEVICE(d);
  if (!uuid) return kInvalidValue;
  std::memcpy(uuid, kUuid, 16);
  return kSuccess;
}
API int cuDeviceGetUuid(unsigned char* uuid, int d) { return cuDeviceGetUuid_v2(uuid, d); }

API int cuDeviceTotalMem_v2(size_t* bytes, int d) {
  NEED_DEVICE(d);
  if (!bytes) return kInvalidValue;
  *bytes = device().memoryBytes;
  return kSuccess;
}

API int cuDeviceGetPCIBusId(char* id, int length, int d) {
  NEED_DEVICE(d);
  if (!id || length < 13) return kInvalidValue;
  std::snprintf(id, size_t(length), "%s", "0000:7F:00.0");
  return kSuccess;
}

API int cuDeviceComputeCapability(int* major, int* minor, int d) {
  NEED_DEVICE(d);
  *major = device().sm / 10;
  *minor = device().sm % 10;
  return kSuccess;
}

API int cuDeviceGetAttribute(int* value, int attribute, int d) {
  NEED_DEVICE(d);
  if (!value || attribute < 1 || attribute > 150) return kInvalidValue;
  const int sm = device().sm;
  const int optin = sm >= 90 ? 232448 : sm == 80 || sm == 87 ? 166912 : sm >= 80 ? 101376 : sm >= 75 ? 65536 : 49152;
  switch (attribute) {
    case 1: *value = 1024; break;           // MAX_THREADS_PER_BLOCK
    case 2: *value = 1024; break;           // MAX_BLOCK_DIM_X
    case 3: *value = 1024; break;
    case 4: *value = 64; break;
    case 5: *value = 2147483647; break;     // MAX_GRID_DIM_X
    case 6: *value = 65535; break;
    case 7: *value = 65535; break;
    case 8: *value = 49152; break;          // MAX_SHARED_MEMORY_PER_BLOCK
    case 9: *value = 65536; break;          // TOTAL_CONSTANT_MEMORY
    case 10: *value = 32; break;            // WARP_SIZE
    case 11: *value = 2147483647; break;    // MAX_PITCH
    case 12: *value = 65536; break;         // MAX_REGISTERS_PER_BLOCK
    case 13: *value = 1980000; break;       // CLOCK_RATE, kHz
    case 14: *value = 512; break;           // TEXTURE_ALIGNMENT
    case 15: *value = 1; break;             // GPU_OVERLAP
    case 16: *value = int(std::max(1u, std::thread::hardware_concurrency())); break;  // MULTIPROCESSOR_COUNT
    case 19: *value = 1; break;             // CAN_MAP_HOST_MEMORY
    case 31: *value = 1; break;             // CONCURRENT_KERNELS
    case 33: *value = 0x7f; break;          // PCI_BUS_ID
    case 34: *value = 0; break;             // PCI_DEVICE_ID
    case 36: *value = 2619000; break;       // MEMORY_CLOCK_RATE, kHz
    case 37: *value = 6144; break;          // GLOBAL_MEMORY_BUS_WIDTH
    case 38: *value = 50 << 20; break;      // L2_CACHE_SIZE
    case 39: *value = sm >= 80 ? 2048 : 1024; break;  // MAX_THREADS_PER_MULTIPROCESSOR
    case 40: *value = 3; break;             // ASYNC_ENGINE_COUNT
    case 41: *value = 1; break;             // UNIFIED_ADDRESSING
    case 50: *value = 0; break;             // PCI_DOMAIN_ID
    case 75: *value = sm / 10; break;       // COMPUTE_CAPABILITY_MAJOR
    case 76: *value = sm % 10; break;
    case 78: *value = 0; break;             // STREAM_PRIORITIES_SUPPORTED
    case 79: *value = 1; break;             // GLOBAL_L1_CACHE_SUPPORTED
    case 80: *value = 1; break;
    case 81: *value = optin + 1024; break;  // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    case 82: *value = 65536; break;         // MAX_REGISTERS_PER_MULTIPROCESSOR
    case 90: *value = 1; break;             // COMPUTE_PREEMPTION_SUPPORTED
    case 95: *value = 1; break;             // COOPERATIVE_LAUNCH
    case 97: *value = optin; break;         // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    case 106: *value = sm >= 80 ? 32 : 16; break;  // MAX_BLOCKS_PER_MULTIPROCESSOR
    case 111: *value = 1024; break;         // RESERVED_SHARED_MEMORY_PER_BLOCK
    case 120: *value = sm >= 90; break;     // CLUSTER_LAUNCH
    case 127: *value = sm >= 90; break;     // TENSOR_MAP_ACCESS_SUPPORTED
    default: *value = 0;                    // features that this device does not have
  }
  return kSuccess;
}

// Contexts: the primary one only

API int cuDevicePrimaryCtxRetain(Context** context, int d) {
  NEED_DEVICE(d);
  if (!context) return kInvalidValue;
  Device& dev = device();
  std::lock_guard lock(dev.mutex);
  if (!dev.primary) dev.primary = std::make_unique<Context>(dev.memoryBytes);
  ++dev.retained;
  *context = dev.primary.get();
  return kSuccess;
}

API int cuDevicePrimaryCtxRelease_v2(int d) {
  NEED_DEVICE(d);
  Device& dev = device();
  std::unique_ptr<Context> gone;
  {
    std::lock_guard lock(dev.mutex);
    if (dev.retained == 0) return kInvalidContext;
    if (--dev.retained == 0) gone = std::move(dev.primary);
  }
  if (gone) destroyContext(std::move(gone));
  return kSuccess;
}
API int cuDevicePrimaryCtxRelease(int d) { return cuDevicePrimaryCtxRelease_v2(d); }

API int cuDevicePrimaryCtxReset_v2(int d) {
  NEED_DEVICE(d);
  Device& dev = device();
  std::unique_ptr<Context> gone;
  {
    std::lock_guard lock(dev.mutex);
    gone = std::move(dev.primary);
    if (dev.retained) dev.primary = std::make_unique<Context>(dev.memoryBytes);
  }
  if (gone) destroyContext(std::move(gone));
  return kSuccess;
}

API int cuDevicePrimaryCtxGetState(int d, unsigned* flags, int* active) {
  NEED_DEVICE(d);
  *flags = 0;
  *active = device().primary != nullptr;
  return kSuccess;
}
API int cuDevicePrimaryCtxSetFlags_v2(int d, unsigned) {
  NEED_DEVICE(d);
  return kSuccess;
}

API int cuCtxSetCurrent(Context* context) {
  NEED_INIT();
  current() = context;
  return kSuccess;
}
API int cuCtxGetCurrent(Context** context) {
  NEED_INIT();
  *context = current();
  return kSuccess;
}
API int cuCtxPushCurrent_v2(Context* context) {
  NEED_INIT();
  stack.push_back(current());
  current() = context;
  return kSuccess;
}
API int cuCtxPopCurrent_v2(Context** context) {
  NEED_INIT();
  if (context) *context = current();
  if (stack.empty()) {
    if (!current()) return kInvalidContext;
    current() = nullptr;
    return kSuccess;
  }
  current() = stack.back();
  stack.pop_back();
  return kSuccess;
}
API int cuCtxGetDevice(int* d) {
  Context* c;
  if (const int e = enter(c)) return e;
  *d = 0;
  return kSuccess;
}
API int cuCtxGetApiVersion(Context*, unsigned* version) {
  *version = 3020;
  return kSuccess;
}
API int cuCtxGetFlags(unsigned* flags) {
  *flags = 0;
  return kSuccess;
}
API int cuCtxSetLimit(int, size_t) { return kSuccess; }
API int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = 0;
  return kSuccess;
}

// Entry points by name

namespace {

/** Names that stand for a newer entry point, as the header's macros do. */
constexpr const char* kRenamed[][2] = {
    {"cuDeviceTotalMem", "cuDeviceTotalMem_v2"},
    {"cuDeviceGetUuid", "cuDeviceGetUuid_v2"},
    {"cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxRelease_v2"},
    {"cuDevicePrimaryCtxReset", "cuDevicePrimaryCtxReset_v2"},
    {"cuDevicePrimaryCtxSetFlags", "cuDevicePrimaryCtxSetFlags_v2"},
    {"cuCtxPushCurrent", "cuCtxPushCurrent_v2"},
    {"cuCtxPopCurrent", "cuCtxPopCurrent_v2"},
    {"cuModuleGetGlobal", "cuModuleGetGlobal_v2"},
    {"cuMemAlloc", "cuMemAlloc_v2"},
    {"cuMemFree", "cuMemFree_v2"},
    {"cuMemGetInfo", "cuMemGetInfo_v2"},
    {"cuMemAllocHost", "cuMemAllocHost_v2"},
    {"cuMemHostRegister", "cuMemHostRegister_v2"},
    {"cuMemHostGetDevicePointer", "cuMemHostGetDevicePointer_v2"},
    {"cuMemcpyHtoD", "cuMemcpyHtoD_v2"},
    {"cuMemcpyDtoH", "cuMemcpyDtoH_v2"},
    {"cuMemcpyDtoD", "cuMemcpyDtoD_v2"},
    {"cuMemcpyHtoDAsync", "cuMemcpyHtoDAsync_v2"},
    {"cuMemcpyDtoHAsync", "cuMemcpyDtoHAsync_v2"},
    {"cuMemcpyDtoDAsync", "cuMemcpyDtoDAsync_v2"},
    {"cuMemsetD8", "cuMemsetD8_v2"},
    {"cuMemsetD16", "cuMemsetD16_v2"},
    {"cuMemsetD32", "cuMemsetD32_v2"},
    {"cuMemGetAddressRange", "cuMemGetAddressRange_v2"},
    {"cuStreamDestroy", "cuStreamDestroy_v2"},
    {"cuStreamBeginCapture", "cuStreamBeginCapture_v2"},
    {"cuStreamGetCaptureInfo", "cuStreamGetCaptureInfo_v2"},
    {"cuEventDestroy", "cuEventDestroy_v2"},
    {"cuEventElapsedTime", "cuEventElapsedTime_v2"},
    {"cuGraphInstantiate", "cuGraphInstantiateWithFlags"},
    {"cuGraphAddKernelNode", "cuGraphAddKernelNode_v2"},
    {"cuGraphKernelNodeGetParams", "cuGraphKernelNodeGetParams_v2"},
    {"cuGraphKernelNodeSetParams", "cuGraphKernelNodeSetParams_v2"},
    {"cuGraphExecKernelNodeSetParams", "cuGraphExecKernelNodeSetParams_v2"},
    {"cuGetProcAddress", "cuGetProcAddress_v2"},
};

void* lookup(const std::string& name) {
  static void* const self = [] {
    Dl_info info;
    dladdr(reinterpret_cast<void*>(&cuInit), &info);
    return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  }();
  for (const auto& [from, to] : kRenamed)
    if (name == from)
      if (void* f = dlsym(self, to)) return f;
  return dlsym(self, name.c_str());
}

}  // namespace

API int cuGetProcAddress_v2(const char* symbol, void** function, int version, uint64_t flags, int* status) {
  if (!symbol || !function) return kInvalidValue;
  (void)version;
  (void)flags;
  *function = std::strncmp(symbol, "cu", 2) == 0 ? lookup(symbol) : nullptr;
  if (status) *status = *function ? 0 : 1;  // CU_GET_PROC_ADDRESS_SUCCESS, _SYMBOL_NOT_FOUND
  return *function || status ? kSuccess : kNotFound;
}

API int cuGetProcAddress(const char* symbol, void** function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}
