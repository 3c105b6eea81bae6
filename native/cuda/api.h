// NVIDIA's driver API as far as we use it: our own prototypes, found at run time, so that nothing of CUDA is needed to
// build. Functions are those of CUDA 11.4 (driver 470) and keep that interface in later drivers.
//
// This has run against the virtual device of the test suite only, not yet against a real driver.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../common/driver.h"

namespace tutti::cuda {

#ifdef _WIN32
#define TUTTI_CUDA_CALL __stdcall
#else
#define TUTTI_CUDA_CALL
#endif

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = uint64_t;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUlinkState = struct CUlinkState_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphExec = struct CUgraphExec_st*;
struct CUuuid {
  unsigned char bytes[16];
};
using CUfunctionAddress = void (*)();

enum : CUresult {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kDeinitialized = 4,
  kStubLibrary = 34,
  kNoDevice = 100,
  kInvalidPtx = 218,
  kUnsupportedPtxVersion = 222,
  kSystemDriverMismatch = 803,
};

/** CUdevice_attribute. */
enum Attribute : int {
  kMaxThreadsPerBlock = 1,
  kMaxBlockX = 2,
  kMaxBlockY = 3,
  kMaxBlockZ = 4,
  kMaxGridX = 5,
  kMaxGridY = 6,
  kMaxGridZ = 7,
  kSharedBytes = 8,
  kClockKHz = 13,
  kMultiprocessors = 16,
  kMemoryClockKHz = 36,
  kMemoryBusBits = 37,
  kCacheBytes = 38,
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kSharedBytesOptIn = 97,
};

/** CUfunction_attribute. */
constexpr int kMostDynamicShared = 8;

enum JitOption : int { kJitInfoLog = 3, kJitInfoLogBytes = 4, kJitErrorLog = 5, kJitErrorLogBytes = 6 };

constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventBlockingSync = 1;
constexpr unsigned kEventDisableTiming = 2;
constexpr int kCaptureRelaxed = 2;

/** Least CUDA version of a driver: 1000 × major + 10 × minor. */
constexpr int kLeastCuda = 11040;
/** CUDA that has tensor maps. */
constexpr int kTensorMapCuda = 12000;
/** Least compute capability × 10. */
constexpr int kLeastCapability = 75;

// X(name without version suffix, exported symbol, parameters)
#define TUTTI_CUDA_FUNCTIONS(X)                                                                                      \
  X(cuInit, cuInit, (unsigned flags))                                                                                \
  X(cuDriverGetVersion, cuDriverGetVersion, (int* version))                                                          \
  X(cuGetErrorName, cuGetErrorName, (CUresult result, const char** text))                                            \
  X(cuGetErrorString, cuGetErrorString, (CUresult result, const char** text))                                        \
  X(cuDeviceGetCount, cuDeviceGetCount, (int* count))                                                                \
  X(cuDeviceGet, cuDeviceGet, (CUdevice * device, int ordinal))                                                      \
  X(cuDeviceGetName, cuDeviceGetName, (char* name, int bytes, CUdevice device))                                      \
  X(cuDeviceGetUuid, cuDeviceGetUuid_v2, (CUuuid * uuid, CUdevice device))                                           \
  X(cuDeviceTotalMem, cuDeviceTotalMem_v2, (size_t * bytes, CUdevice device))                                        \
  X(cuDeviceGetAttribute, cuDeviceGetAttribute, (int* value, int attribute, CUdevice device))                        \
  X(cuDeviceGetPCIBusId, cuDeviceGetPCIBusId, (char* text, int bytes, CUdevice device))                              \
  X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                      \
  X(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                      \
  X(cuCtxSetCurrent, cuCtxSetCurrent, (CUcontext context))                                                           \
  X(cuMemAlloc, cuMemAlloc_v2, (CUdeviceptr * pointer, size_t bytes))                                                \
  X(cuMemFree, cuMemFree_v2, (CUdeviceptr pointer))                                                                  \
  X(cuMemGetInfo, cuMemGetInfo_v2, (size_t * free, size_t* total))                                                   \
  X(cuMemHostAlloc, cuMemHostAlloc, (void** pointer, size_t bytes, unsigned flags))                                  \
  X(cuMemFreeHost, cuMemFreeHost, (void* pointer))                                                                   \
  X(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void* from, size_t bytes, CUstream stream))      \
  X(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void* to, CUdeviceptr from, size_t bytes, CUstream stream))            \
  X(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))      \
  X(cuMemsetD8Async, cuMemsetD8Async, (CUdeviceptr to, unsigned char byte, size_t bytes, CUstream stream))           \
  X(cuModuleLoadDataEx, cuModuleLoadDataEx,                                                                          \
    (CUmodule * module, const void* image, unsigned count, int* options, void** values))                             \
  X(cuModuleUnload, cuModuleUnload, (CUmodule module))                                                               \
  X(cuModuleGetFunction, cuModuleGetFunction, (CUfunction * function, CUmodule module, const char* name))            \
  X(cuFuncSetAttribute, cuFuncSetAttribute, (CUfunction function, int attribute, int value))                         \
  X(cuLaunchKernel, cuLaunchKernel,                                                                                  \
    (CUfunction function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX, unsigned blockY,          \
     unsigned blockZ, unsigned sharedBytes, CUstream stream, void** parameters, void** extra))                       \
  X(cuStreamCreate, cuStreamCreate, (CUstream * stream, unsigned flags))                                             \
  X(cuStreamDestroy, cuStreamDestroy_v2, (CUstream stream))                                                          \
  X(cuStreamSynchronize, cuStreamSynchronize, (CUstream stream))                                                     \
  X(cuStreamBeginCapture, cuStreamBeginCapture_v2, (CUstream stream, int mode))                                      \
  X(cuStreamEndCapture, cuStreamEndCapture, (CUstream stream, CUgraph * graph))                                      \
  X(cuGraphInstantiateWithFlags, cuGraphInstantiateWithFlags,                                                        \
    (CUgraphExec * instance, CUgraph graph, unsigned long long flags))                                               \
  X(cuGraphLaunch, cuGraphLaunch, (CUgraphExec instance, CUstream stream))                                           \
  X(cuGraphExecDestroy, cuGraphExecDestroy, (CUgraphExec instance))                                                  \
  X(cuGraphDestroy, cuGraphDestroy, (CUgraph graph))                                                                 \
  X(cuEventCreate, cuEventCreate, (CUevent * event, unsigned flags))                                                 \
  X(cuEventRecord, cuEventRecord, (CUevent event, CUstream stream))                                                  \
  X(cuEventSynchronize, cuEventSynchronize, (CUevent event))                                                         \
  X(cuEventElapsedTime, cuEventElapsedTime, (float* milliseconds, CUevent from, CUevent to))                         \
  X(cuEventDestroy, cuEventDestroy_v2, (CUevent event))

/** The functions of one library. Loaded once a path and never unloaded: drivers leave threads behind. */
struct Api {
#define TUTTI_CUDA_MEMBER(name, symbol, parameters) CUresult(TUTTI_CUDA_CALL* name) parameters = nullptr;
  TUTTI_CUDA_FUNCTIONS(TUTTI_CUDA_MEMBER)
#undef TUTTI_CUDA_MEMBER
  /** Since CUDA 12.0; null before. */
  CUresult(TUTTI_CUDA_CALL* cuTensorMapEncodeTiled)(void* map, int type, uint32_t rank, void* address,
                                                     const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
                                                     const uint32_t* steps, int interleave, int swizzle, int promotion,
                                                     int fill) = nullptr;
  /** The linker of the JIT, which hands out machine code. May be null. */
  CUresult(TUTTI_CUDA_CALL* cuLinkCreate)(unsigned count, int* options, void** values, CUlinkState* state) = nullptr;
  CUresult(TUTTI_CUDA_CALL* cuLinkAddData)(CUlinkState state, int type, void* data, size_t bytes, const char* name,
                                            unsigned count, int* options, void** values) = nullptr;
  CUresult(TUTTI_CUDA_CALL* cuLinkComplete)(CUlinkState state, void** code, size_t* bytes) = nullptr;
  CUresult(TUTTI_CUDA_CALL* cuLinkDestroy)(CUlinkState state) = nullptr;
  int cudaVersion = 0;

  /** Throws Error E_DEVICE, E_DEVICE_LOST or E_OUT_OF_MEMORY in the driver's words, unless `result` is success. */
  void check(CUresult result, const char* doing) const {
    if (result != kSuccess) fail(result, doing);
  }
  [[noreturn]] void fail(CUresult result, const std::string& doing) const;
  /** The driver's name and words for a result. */
  std::string words(CUresult result) const;
};

struct DeviceFacts : gpu::DeviceFacts {  // id: GPU-<uuid>
  CUdevice device = 0;
  int capability = 0;  // × 10
};

/** The initialised driver at `library` (a path; empty: the system's). Throws Error E_DEVICE saying why there is none. */
std::shared_ptr<const Api> openApi(const std::string& library);

/** Devices that can run our code. `tooOld` gets a sentence for each that cannot. */
std::vector<DeviceFacts> enumerateDevices(const Api& api, std::vector<std::string>* tooOld = nullptr);

}  // namespace tutti::cuda
