// Opens the CUDA driver, finds its functions and describes devices.

#include "api.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace tutti::cuda {

namespace {

#ifdef _WIN32
constexpr const char* kSystemLibrary = "nvcuda.dll";
void* openLibrary(const char* name) { return reinterpret_cast<void*>(LoadLibraryA(name)); }
void* symbolOf(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
std::string whyNot() { return "error " + std::to_string(GetLastError()); }
#else
constexpr const char* kSystemLibrary = "libcuda.so.1";
void* openLibrary(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
void* symbolOf(void* library, const char* name) { return dlsym(library, name); }
std::string whyNot() {
  const char* text = dlerror();
  return text ? text : "unknown error";
}
#endif

std::string versionText(int cuda) { return std::to_string(cuda / 1000) + "." + std::to_string(cuda % 1000 / 10); }

/** First interface of cuGetProcAddress, which `dlsym` gives in all drivers since 11.3. */
using GetProcAddressFunction = CUresult(TUTTI_CUDA_CALL*)(const char* name, void** address, int version, uint64_t flags);

std::shared_ptr<Api> load(const std::string& path) {
  const char* name = path.empty() ? kSystemLibrary : path.c_str();
  void* library = openLibrary(name);
  if (library == nullptr) {
    if (!path.empty()) throw Error("E_DEVICE", "TUTTI_CUDA_LIBRARY cannot be loaded: " + whyNot());
    throw Error("E_DEVICE", std::string(name) + " not found: install the NVIDIA driver");
  }
  auto api = std::make_shared<Api>();
  api->cuDriverGetVersion = reinterpret_cast<decltype(api->cuDriverGetVersion)>(symbolOf(library, "cuDriverGetVersion"));
  if (api->cuDriverGetVersion == nullptr || api->cuDriverGetVersion(&api->cudaVersion) != kSuccess)
    throw Error("E_DEVICE", std::string(name) + " is not a CUDA driver");
  if (api->cudaVersion < kLeastCuda)
    throw Error("E_DEVICE", "the NVIDIA driver supports CUDA " + versionText(api->cudaVersion) + ", " +
                                versionText(kLeastCuda) + " is needed: update it to version 470 or later");
  const auto find = reinterpret_cast<GetProcAddressFunction>(symbolOf(library, "cuGetProcAddress"));
  // The version asked for fixes the interface: later drivers still give the one of then.
  const auto address = [&](const char* function, const char* symbol) -> void* {
    void* found = nullptr;
    if (find != nullptr && find(function, &found, kLeastCuda, 0) == kSuccess && found != nullptr) return found;
    return symbolOf(library, symbol);
  };
  std::string missing;
#define TUTTI_CUDA_FIND(function, symbol, parameters)                                             \
  api->function = reinterpret_cast<decltype(api->function)>(address(#function, #symbol));         \
  if (api->function == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(#function);
  TUTTI_CUDA_FUNCTIONS(TUTTI_CUDA_FIND)
#undef TUTTI_CUDA_FIND
  if (api->cudaVersion >= kTensorMapCuda) {
    void* found = nullptr;
    if (find == nullptr || find("cuTensorMapEncodeTiled", &found, kTensorMapCuda, 0) != kSuccess)
      found = symbolOf(library, "cuTensorMapEncodeTiled");
    api->cuTensorMapEncodeTiled = reinterpret_cast<decltype(api->cuTensorMapEncodeTiled)>(found);
  }
  const auto optional = [&](auto& function, const char* plain, const char* symbol) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(address(plain, symbol));
  };
  optional(api->cuLinkCreate, "cuLinkCreate", "cuLinkCreate_v2");
  optional(api->cuLinkAddData, "cuLinkAddData", "cuLinkAddData_v2");
  optional(api->cuLinkComplete, "cuLinkComplete", "cuLinkComplete");
  optional(api->cuLinkDestroy, "cuLinkDestroy", "cuLinkDestroy");
  if (!missing.empty()) throw Error("E_DEVICE", std::string(name) + " has no " + missing);
  switch (const CUresult result = api->cuInit(0)) {
    case kSuccess:
      return api;
    case kNoDevice:
      throw Error("E_DEVICE", "the NVIDIA driver finds no device");
    case kStubLibrary:
      throw Error("E_DEVICE", std::string(name) + " is the stub of the CUDA toolkit: install the NVIDIA driver");
    case kSystemDriverMismatch:
      throw Error("E_DEVICE", "the NVIDIA library and the kernel's module are of different versions: reboot");
    default:
      throw Error("E_DEVICE", "the NVIDIA driver does not start: " + api->words(result));
  }
}

/** After these the context is lost: every later call fails in the same way. */
bool isSticky(CUresult result) {
  switch (result) {
    case kDeinitialized:
    case 46:   // device unavailable
    case 214:  // uncorrectable ECC error
    case 220:  // NVLink uncorrectable
    case 226:  // contained
    case 700:  // illegal address
    case 702:  // launch timeout
    case 709:  // context is destroyed
    case 710:  // assert
    case 714:  // hardware stack error
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // invalid address space
    case 718:  // invalid program counter
    case 719:  // launch failed
    case 999:  // unknown
      return true;
    default:
      return false;
  }
}

std::string uuidText(const CUuuid& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", uuid.bytes[i]);
    text += hex;
    if (i == 3 || i == 5 || i == 7 || i == 9) text += '-';
  }
  return text;
}

}  // namespace

std::string Api::words(CUresult result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (cuGetErrorName) cuGetErrorName(result, &name);
  if (cuGetErrorString) cuGetErrorString(result, &text);
  return std::string(name ? name : "CUDA error " + std::to_string(result)) + (text ? std::string(": ") + text : "");
}

void Api::fail(CUresult result, const std::string& doing) const {
  const std::string message = doing + " failed: " + words(result);
  if (result == kOutOfMemory) throw Error("E_OUT_OF_MEMORY", message);
  throw Error(isSticky(result) ? "E_DEVICE_LOST" : "E_DEVICE", message);
}

std::shared_ptr<const Api> openApi(const std::string& library) {
  static std::mutex mutex;
  static auto& opened = *new std::map<std::string, std::shared_ptr<const Api>>;
  std::lock_guard lock(mutex);
  auto& api = opened[library];
  if (!api) api = load(library);  // a failure is tried again: the driver may be installed meanwhile
  return api;
}

std::vector<DeviceFacts> enumerateDevices(const Api& api, std::vector<std::string>* tooOld) {
  int count = 0;
  api.check(api.cuDeviceGetCount(&count), "counting devices");
  std::vector<DeviceFacts> devices;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    DeviceFacts facts;
    api.check(api.cuDeviceGet(&facts.device, ordinal), "getting a device");
    const auto attribute = [&](Attribute which) {
      int value = 0;
      return api.cuDeviceGetAttribute(&value, which, facts.device) == kSuccess ? value : 0;
    };
    char text[256] = {};
    api.check(api.cuDeviceGetName(text, sizeof text - 1, facts.device), "getting a device's name");
    facts.name = text;
    const int major = attribute(kCapabilityMajor), minor = attribute(kCapabilityMinor);
    facts.capability = 10 * major + minor;
    if (facts.capability < kLeastCapability) {
      if (tooOld)
        tooOld->push_back(facts.name + " has compute capability " + std::to_string(major) + "." +
                          std::to_string(minor) + ", 7.5 is the least");
      continue;
    }
    CUuuid uuid{};
    api.check(api.cuDeviceGetUuid(&uuid, facts.device), "getting a device's UUID");
    facts.id = uuidText(uuid);
    char pci[64] = {};
    const bool located = api.cuDeviceGetPCIBusId(pci, sizeof pci - 1, facts.device) == kSuccess;
    size_t bytes = 0;
    api.check(api.cuDeviceTotalMem(&bytes, facts.device), "getting a device's memory");
    facts.memoryBytes = bytes;
    facts.driver = "NVIDIA, CUDA " + versionText(api.cudaVersion);
    facts.features = {"sm_" + std::to_string(facts.capability)};
    if (located) facts.features.push_back(std::string("pci:") + pci);
    facts.limit("computeCapability", facts.capability);
    facts.limit("cudaVersion", api.cudaVersion);
    const std::pair<const char*, Attribute> attributes[] = {
        {"maxThreadsPerBlock", kMaxThreadsPerBlock},
        {"maxBlockX", kMaxBlockX},
        {"maxBlockY", kMaxBlockY},
        {"maxBlockZ", kMaxBlockZ},
        {"maxGridX", kMaxGridX},
        {"maxGridY", kMaxGridY},
        {"maxGridZ", kMaxGridZ},
        {"sharedBytes", kSharedBytes},
        {"sharedBytesOptIn", kSharedBytesOptIn},
        {"clockKHz", kClockKHz},
        {"multiprocessors", kMultiprocessors},
        {"memoryClockKHz", kMemoryClockKHz},
        {"memoryBusBits", kMemoryBusBits},
        {"cacheBytes", kCacheBytes},
    };
    for (const auto& [name, which] : attributes)
      if (const int value = attribute(which); value > 0) facts.limit(name, value);
    devices.push_back(std::move(facts));
  }
  return devices;
}

}  // namespace tutti::cuda
