// Opens the Vulkan loader, makes instances, describes physical devices and creates logical ones.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "api.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace tutti::vulkan {

namespace {

struct Loader {
  PFN_vkGetInstanceProcAddr get = nullptr;
  std::string reason;
};

#ifdef _WIN32
Loader openLoader() {
  HMODULE library = LoadLibraryA("vulkan-1.dll");
  if (library == nullptr) return {nullptr, "vulkan-1.dll not found: install a graphics driver that brings Vulkan"};
  auto get = reinterpret_cast<PFN_vkGetInstanceProcAddr>(GetProcAddress(library, "vkGetInstanceProcAddr"));
  return {get, get ? "" : "vulkan-1.dll has no vkGetInstanceProcAddr: it is not the Vulkan loader"};
}
void setEnvironment(const char* name, const char* value) { _putenv_s(name, value ? value : ""); }
#else
Loader openLoader() {
#ifdef __APPLE__
  const char* const names[] = {"libvulkan.1.dylib", "libvulkan.dylib", "/usr/local/lib/libvulkan.1.dylib",
                               "/opt/homebrew/lib/libvulkan.1.dylib", "libMoltenVK.dylib",
                               "/opt/homebrew/lib/libMoltenVK.dylib"};
  const char* const missing = "libvulkan.dylib and libMoltenVK.dylib not found: install the Vulkan SDK or MoltenVK";
#else
  const char* const names[] = {"libvulkan.so.1", "libvulkan.so"};
  const char* const missing = "libvulkan.so.1 not found: install the Vulkan loader (Debian: libvulkan1)";
#endif
  for (const char* name : names) {
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    auto get = reinterpret_cast<PFN_vkGetInstanceProcAddr>(dlsym(library, "vkGetInstanceProcAddr"));
    if (get != nullptr) return {get, ""};
    return {nullptr, std::string(name) + " has no vkGetInstanceProcAddr: it is not the Vulkan loader"};
  }
  return {nullptr, missing};
}
void setEnvironment(const char* name, const char* value) {
  if (value) {
    setenv(name, value, 1);
  } else {
    unsetenv(name);
  }
}
#endif

/** Points the loader at one ICD file while it makes an instance, then puts the variables back. */
class IcdSelection {
 public:
  explicit IcdSelection(const std::string& icd) : active_(!icd.empty()) {
    if (!active_) return;
    for (size_t i = 0; i < 2; ++i) {
      const char* old = std::getenv(kNames[i]);
      if ((had_[i] = old != nullptr)) saved_[i] = old;
      setEnvironment(kNames[i], icd.c_str());
    }
  }
  ~IcdSelection() {
    if (!active_) return;
    for (size_t i = 0; i < 2; ++i) setEnvironment(kNames[i], had_[i] ? saved_[i].c_str() : nullptr);
  }

 private:
  static constexpr const char* kNames[2] = {"VK_DRIVER_FILES", "VK_ICD_FILENAMES"};
  bool active_;
  bool had_[2] = {};
  std::string saved_[2];
};

bool hasExtension(const std::vector<VkExtensionProperties>& list, const char* name) {
  for (const VkExtensionProperties& extension : list)
    if (std::strcmp(extension.extensionName, name) == 0) return true;
  return false;
}

std::vector<VkExtensionProperties> deviceExtensions(const Instance& vk, VkPhysicalDevice device) {
  uint32_t count = 0;
  check(vk.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr), "listing device extensions");
  std::vector<VkExtensionProperties> list(count);
  check(vk.vkEnumerateDeviceExtensionProperties(device, nullptr, &count, list.data()), "listing device extensions");
  list.resize(count);
  return list;
}

/** For what no version took in. */
constexpr uint32_t kNoVersion = UINT32_MAX;

/** The optional features we may use, as a chain for vkGetPhysicalDeviceFeatures2 and for vkCreateDevice. */
struct FeatureChain {
  VkPhysicalDeviceFeatures2 core{};
  VkPhysicalDevice16BitStorageFeatures storage16{};
  VkPhysicalDevice8BitStorageFeatures storage8{};
  VkPhysicalDeviceShaderFloat16Int8Features float16Int8{};
  VkPhysicalDeviceSubgroupSizeControlFeatures subgroupSize{};
  VkPhysicalDeviceVulkanMemoryModelFeatures memoryModel{};
  VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix{};
  VkPhysicalDeviceShaderBfloat16FeaturesKHR bfloat16{};
  VkPhysicalDeviceShaderIntegerDotProductFeatures integerDots{};
  std::vector<const char*> extensions;

  FeatureChain(const std::vector<VkExtensionProperties>& offered, uint32_t apiVersion) {
    core.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    storage16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
    storage8.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_8BIT_STORAGE_FEATURES;
    float16Int8.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES;
    subgroupSize.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES;
    memoryModel.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES;
    matrix.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
    bfloat16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_BFLOAT16_FEATURES_KHR;
    integerDots.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES;
    void** next = &core.pNext;
    const auto link = [&next](auto& features) {
      *next = &features;
      next = &features.pNext;
    };
    // A feature struct may only be chained where its extension (or the version that took it in) is there.
    const auto offers = [&](uint32_t since, const char* extension) {
      if (apiVersion >= since) return true;
      if (!hasExtension(offered, extension)) return false;
      extensions.push_back(extension);
      return true;
    };
    link(storage16);
    if (offers(VK_API_VERSION_1_2, VK_KHR_8BIT_STORAGE_EXTENSION_NAME)) link(storage8);
    if (offers(VK_API_VERSION_1_2, VK_KHR_SHADER_FLOAT16_INT8_EXTENSION_NAME)) link(float16Int8);
    if (offers(VK_API_VERSION_1_3, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME)) link(subgroupSize);
    if (offers(VK_API_VERSION_1_2, VK_KHR_VULKAN_MEMORY_MODEL_EXTENSION_NAME)) link(memoryModel);
    if (offers(kNoVersion, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME)) {
      link(matrix);
      if (offers(kNoVersion, VK_KHR_SHADER_BFLOAT16_EXTENSION_NAME)) link(bfloat16);
    }
    if (offers(VK_API_VERSION_1_3, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME)) link(integerDots);
    offers(VK_API_VERSION_1_2, VK_KHR_SHADER_FLOAT_CONTROLS_EXTENSION_NAME);
    if (hasExtension(offered, "VK_KHR_portability_subset")) extensions.push_back("VK_KHR_portability_subset");
  }
};

uint32_t effectiveVersion(const Instance& vk, const VkPhysicalDeviceProperties& properties) {
  return properties.apiVersion < vk.loaderVersion ? properties.apiVersion : vk.loaderVersion;
}

std::string versionText(uint32_t version) {
  return std::to_string(VK_API_VERSION_MAJOR(version)) + "." + std::to_string(VK_API_VERSION_MINOR(version)) + "." +
         std::to_string(VK_API_VERSION_PATCH(version));
}

/** As features name an element type; null for those that are not used. */
const char* componentName(VkComponentTypeKHR type) {
  switch (static_cast<int64_t>(type)) {
    case VK_COMPONENT_TYPE_FLOAT16_KHR: return "f16";
    case VK_COMPONENT_TYPE_FLOAT32_KHR: return "f32";
    case VK_COMPONENT_TYPE_BFLOAT16_KHR: return "bf16";
    case VK_COMPONENT_TYPE_SINT8_KHR: return "i8";
    case VK_COMPONENT_TYPE_UINT8_KHR: return "u8";
    case VK_COMPONENT_TYPE_SINT32_KHR: return "i32";
    case VK_COMPONENT_TYPE_UINT32_KHR: return "u32";
    default: return nullptr;
  }
}

/** `cooperativeMatrix:16x16x16:f16:f16:f32` and the like: products that subgroups of compute shaders can multiply. */
std::vector<std::string> matrixFeatures(const Instance& vk, VkPhysicalDevice device) {
  const auto list = vk.vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR;
  VkPhysicalDeviceCooperativeMatrixPropertiesKHR stages{};
  stages.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
  VkPhysicalDeviceProperties2 properties{};
  properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  properties.pNext = &stages;
  vk.vkGetPhysicalDeviceProperties2(device, &properties);
  uint32_t count = 0;
  if (!(stages.cooperativeMatrixSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) || list == nullptr ||
      list(device, &count, nullptr) != VK_SUCCESS)
    return {};
  VkCooperativeMatrixPropertiesKHR empty{};
  empty.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
  std::vector<VkCooperativeMatrixPropertiesKHR> products(count, empty);
  if (list(device, &count, products.data()) < 0) return {};
  products.resize(count);
  std::vector<std::string> names;
  for (const VkCooperativeMatrixPropertiesKHR& product : products) {
    const char* types[] = {componentName(product.AType), componentName(product.BType), componentName(product.CType)};
    if (product.scope != VK_SCOPE_SUBGROUP_KHR || product.saturatingAccumulation || product.CType != product.ResultType)
      continue;
    std::string name = "cooperativeMatrix:" + std::to_string(product.MSize) + "x" + std::to_string(product.NSize) +
                       "x" + std::to_string(product.KSize);
    bool known = true;
    for (const char* type : types) {
      known = known && type != nullptr;
      if (known) name += std::string(":") + type;
    }
    if (known) names.push_back(std::move(name));
  }
  return names;
}

/** Fills `facts`; false where the device cannot serve (older than 1.1, or no compute queue). */
bool describe(const Instance& vk, VkPhysicalDevice device, DeviceFacts& facts) {
  VkPhysicalDeviceProperties basic{};
  vk.vkGetPhysicalDeviceProperties(device, &basic);
  facts.apiVersion = effectiveVersion(vk, basic);
  if (facts.apiVersion < VK_API_VERSION_1_1) return false;

  uint32_t count = 0;
  vk.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  vk.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  // A family that computes but does not draw is scheduled apart from the desktop where a device has one.
  int chosen = -1;
  for (uint32_t i = 0; i < count; ++i) {
    if (!(families[i].queueFlags & VK_QUEUE_COMPUTE_BIT)) continue;
    const bool computeOnly = !(families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT);
    if (chosen < 0 || (computeOnly && (families[chosen].queueFlags & VK_QUEUE_GRAPHICS_BIT))) chosen = static_cast<int>(i);
  }
  if (chosen < 0) return false;

  const auto extensions = deviceExtensions(vk, device);
  const bool floatControlsOffered = facts.apiVersion >= VK_API_VERSION_1_2 ||
                                    hasExtension(extensions, VK_KHR_SHADER_FLOAT_CONTROLS_EXTENSION_NAME);
  const bool driverNamed =
      facts.apiVersion >= VK_API_VERSION_1_2 || hasExtension(extensions, VK_KHR_DRIVER_PROPERTIES_EXTENSION_NAME);
  const bool subgroupControlOffered = facts.apiVersion >= VK_API_VERSION_1_3 ||
                                      hasExtension(extensions, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
  const bool integerDotsOffered = facts.apiVersion >= VK_API_VERSION_1_3 ||
                                  hasExtension(extensions, VK_KHR_SHADER_INTEGER_DOT_PRODUCT_EXTENSION_NAME);

  VkPhysicalDeviceProperties2 properties{};
  properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  VkPhysicalDeviceIDProperties identity{};
  identity.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES;
  VkPhysicalDeviceSubgroupProperties subgroup{};
  subgroup.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES;
  VkPhysicalDeviceMaintenance3Properties allocation{};
  allocation.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES;
  VkPhysicalDeviceFloatControlsProperties floats{};
  floats.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FLOAT_CONTROLS_PROPERTIES;
  VkPhysicalDeviceDriverProperties driver{};
  driver.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES;
  VkPhysicalDeviceSubgroupSizeControlProperties subgroupSizes{};
  subgroupSizes.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES;
  VkPhysicalDeviceShaderIntegerDotProductProperties integerDots{};
  integerDots.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_PROPERTIES;
  properties.pNext = &identity;
  identity.pNext = &subgroup;
  subgroup.pNext = &allocation;
  void** next = &allocation.pNext;
  if (floatControlsOffered) *next = &floats, next = &floats.pNext;
  if (driverNamed) *next = &driver, next = &driver.pNext;
  if (subgroupControlOffered) *next = &subgroupSizes, next = &subgroupSizes.pNext;
  if (integerDotsOffered) *next = &integerDots, next = &integerDots.pNext;
  vk.vkGetPhysicalDeviceProperties2(device, &properties);
  const VkPhysicalDeviceProperties& core = properties.properties;

  FeatureChain chain(extensions, facts.apiVersion);
  vk.vkGetPhysicalDeviceFeatures2(device, &chain.core);

  facts.handle = device;
  facts.queueFamily = static_cast<uint32_t>(chosen);
  facts.timestampBits = families[chosen].timestampValidBits;
  facts.timestampNanoseconds = core.limits.timestampPeriod;
  char hex[2 * VK_UUID_SIZE + 1];
  for (size_t i = 0; i < VK_UUID_SIZE; ++i) std::snprintf(hex + 2 * i, 3, "%02x", identity.deviceUUID[i]);
  facts.id = hex;
  facts.name = core.deviceName;
  facts.driver = driverNamed ? driver.driverName : "driver version " + std::to_string(core.driverVersion);
  if (driverNamed && driver.driverInfo[0] != 0) facts.driver += std::string(" ") + driver.driverInfo;
  facts.driver += ", Vulkan " + versionText(core.apiVersion);
  facts.software = core.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
  facts.driverVersion = core.driverVersion;
  facts.vendorId = core.vendorID;
  facts.deviceId = core.deviceID;
  std::memcpy(facts.cacheUuid, core.pipelineCacheUUID, VK_UUID_SIZE);

  VkPhysicalDeviceMemoryProperties memory{};
  vk.vkGetPhysicalDeviceMemoryProperties(device, &memory);
  for (uint32_t i = 0; i < memory.memoryHeapCount; ++i)
    if ((memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) && memory.memoryHeaps[i].size > facts.memoryBytes)
      facts.memoryBytes = memory.memoryHeaps[i].size;

  const auto feature = [&facts](const char* name, bool present) {
    if (present) facts.features.emplace_back(name);
  };
  const VkPhysicalDeviceFeatures& on = chain.core.features;
  feature("shaderInt64", on.shaderInt64);
  feature("shaderFloat64", on.shaderFloat64);
  feature("shaderInt16", on.shaderInt16);
  feature("shaderFloat16", chain.float16Int8.shaderFloat16);
  feature("shaderInt8", chain.float16Int8.shaderInt8);
  feature("storageBuffer16BitAccess", chain.storage16.storageBuffer16BitAccess);
  feature("storageBuffer8BitAccess", chain.storage8.storageBuffer8BitAccess);
  feature("signedZeroInfNanPreserve16", floats.shaderSignedZeroInfNanPreserveFloat16);
  feature("signedZeroInfNanPreserve32", floats.shaderSignedZeroInfNanPreserveFloat32);
  feature("signedZeroInfNanPreserve64", floats.shaderSignedZeroInfNanPreserveFloat64);
  feature("roundingModeRTE16", floats.shaderRoundingModeRTEFloat16);
  feature("roundingModeRTE32", floats.shaderRoundingModeRTEFloat32);
  feature("denormPreserve32", floats.shaderDenormPreserveFloat32);
  feature("shaderIntegerDotProduct", chain.integerDots.shaderIntegerDotProduct);
  feature("integerDotProduct4x8BitPackedSignedAccelerated", integerDots.integerDotProduct4x8BitPackedSignedAccelerated);
  feature("integerDotProduct4x8BitPackedUnsignedAccelerated",
          integerDots.integerDotProduct4x8BitPackedUnsignedAccelerated);
  feature("integerDotProduct4x8BitPackedMixedSignednessAccelerated",
          integerDots.integerDotProduct4x8BitPackedMixedSignednessAccelerated);
  feature("timestamps", facts.timestampBits > 0);
  const VkSubgroupFeatureFlags all = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT |
                                     VK_SUBGROUP_FEATURE_BALLOT_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT |
                                     VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT;
  feature("subgroups", (subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
                           (subgroup.supportedOperations & all) == all);
  facts.subgroupSizeControl = chain.subgroupSize.subgroupSizeControl &&
                              (subgroupSizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT);
  feature("subgroupSizeControl", facts.subgroupSizeControl);
  facts.fullSubgroups = chain.subgroupSize.computeFullSubgroups;
  feature("vulkanMemoryModel", chain.memoryModel.vulkanMemoryModel);
  feature("shaderBFloat16CooperativeMatrix",
          chain.bfloat16.shaderBFloat16Type && chain.bfloat16.shaderBFloat16CooperativeMatrix);
  if (chain.matrix.cooperativeMatrix)
    for (const std::string& name : matrixFeatures(vk, device)) feature(name.c_str(), true);

  const auto limit = [&facts](const char* name, auto value) {
    facts.limit(name, static_cast<double>(value));
  };
  const VkPhysicalDeviceLimits& limits = core.limits;
  const char axes[] = "XYZ";
  for (size_t i = 0; i < 3; ++i) {
    limit((std::string("maxComputeWorkGroupCount") + axes[i]).c_str(), limits.maxComputeWorkGroupCount[i]);
    limit((std::string("maxComputeWorkGroupSize") + axes[i]).c_str(), limits.maxComputeWorkGroupSize[i]);
  }
  limit("maxComputeWorkGroupInvocations", limits.maxComputeWorkGroupInvocations);
  limit("maxComputeSharedMemorySize", limits.maxComputeSharedMemorySize);
  limit("maxStorageBufferRange", limits.maxStorageBufferRange);
  limit("maxPerStageDescriptorStorageBuffers", limits.maxPerStageDescriptorStorageBuffers);
  limit("maxPushConstantsSize", limits.maxPushConstantsSize);
  limit("minStorageBufferOffsetAlignment", limits.minStorageBufferOffsetAlignment);
  limit("maxMemoryAllocationSize", allocation.maxMemoryAllocationSize);
  limit("subgroupSize", subgroup.subgroupSize);
  limit("minSubgroupSize", facts.subgroupSizeControl ? subgroupSizes.minSubgroupSize : subgroup.subgroupSize);
  limit("maxSubgroupSize", facts.subgroupSizeControl ? subgroupSizes.maxSubgroupSize : subgroup.subgroupSize);
  return true;
}

}  // namespace

std::shared_ptr<Instance> instanceFor(const std::string& icd) {
  static std::mutex mutex;
  // Never destroyed: drivers may not be unloaded while their threads live, and static destructors run too late for that.
  static auto* instances = new std::map<std::string, std::shared_ptr<Instance>>();
  static const Loader loader = openLoader();
  std::lock_guard lock(mutex);
  if (auto found = instances->find(icd); found != instances->end()) return found->second;
  if (loader.get == nullptr) throw Error("E_DEVICE", loader.reason);

  const auto global = [](const char* name) { return loader.get(nullptr, name); };
  auto instance = std::make_shared<Instance>();
  if (auto version = reinterpret_cast<PFN_vkEnumerateInstanceVersion>(global("vkEnumerateInstanceVersion")))
    version(&instance->loaderVersion);
  if (instance->loaderVersion < VK_API_VERSION_1_1)
    throw Error("E_DEVICE", "the Vulkan loader is version 1.0; 1.1 or newer is needed: update it");
  if (instance->loaderVersion > VK_API_VERSION_1_3) instance->loaderVersion = VK_API_VERSION_1_3;

  IcdSelection selection(icd);
  std::vector<const char*> extensions;
  VkInstanceCreateFlags flags = 0;
  const auto list = reinterpret_cast<PFN_vkEnumerateInstanceExtensionProperties>(
      global("vkEnumerateInstanceExtensionProperties"));
  uint32_t count = 0;
  if (list != nullptr && list(nullptr, &count, nullptr) == VK_SUCCESS) {
    std::vector<VkExtensionProperties> offered(count);
    list(nullptr, &count, offered.data());
    if (hasExtension(offered, "VK_KHR_portability_enumeration")) {  // MoltenVK is listed only when asked for
      extensions.push_back("VK_KHR_portability_enumeration");
      flags |= 0x00000001;  // VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR
    }
  }

  VkApplicationInfo application{};
  application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
  application.pApplicationName = "tutti";
  application.pEngineName = "tutti";
  application.apiVersion = instance->loaderVersion;
  VkInstanceCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
  create.flags = flags;
  create.pApplicationInfo = &application;
  create.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  create.ppEnabledExtensionNames = extensions.data();
  const auto make = reinterpret_cast<PFN_vkCreateInstance>(global("vkCreateInstance"));
  if (make == nullptr) throw Error("E_DEVICE", "the Vulkan loader has no vkCreateInstance");
  const VkResult result = make(&create, nullptr, &instance->handle);
  if (result == VK_ERROR_INCOMPATIBLE_DRIVER) {
    throw Error("E_DEVICE", icd.empty()
                                ? "the Vulkan loader found no driver: install one (Debian: mesa-vulkan-drivers)"
                                : "the driver named by TUTTI_VULKAN_ICD could not be loaded: " + icd);
  }
  if (result != VK_SUCCESS) throw Error("E_DEVICE", "vkCreateInstance failed: " + resultInWords(result));

#define TUTTI_VK_LOAD(name)                                                                    \
  instance->name = reinterpret_cast<PFN_##name>(loader.get(instance->handle, #name));          \
  if (instance->name == nullptr) throw Error("E_DEVICE", "the Vulkan driver has no " #name);
  TUTTI_VK_INSTANCE_FUNCTIONS(TUTTI_VK_LOAD)
#undef TUTTI_VK_LOAD
  instance->vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR =
      reinterpret_cast<PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR>(
          loader.get(instance->handle, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR"));
  instances->emplace(icd, instance);
  return instance;
}

std::vector<DeviceFacts> enumerateDevices(const Instance& vk) {
  uint32_t count = 0;
  const VkResult result = vk.vkEnumeratePhysicalDevices(vk.handle, &count, nullptr);
  if (result == VK_ERROR_INITIALIZATION_FAILED || count == 0) return {};
  check(result, "listing Vulkan devices");
  std::vector<VkPhysicalDevice> handles(count);
  vk.vkEnumeratePhysicalDevices(vk.handle, &count, handles.data());
  handles.resize(count);
  std::vector<DeviceFacts> devices;
  for (VkPhysicalDevice handle : handles) {
    DeviceFacts facts;
    if (!describe(vk, handle, facts)) continue;
    // Two loaders' views of one device, or drivers that leave the UUID empty, must not share an id.
    size_t twins = 0;
    for (const DeviceFacts& other : devices)
      if (other.id.compare(0, facts.id.size(), facts.id) == 0) ++twins;
    if (twins > 0) facts.id += "-" + std::to_string(twins);
    devices.push_back(std::move(facts));
  }
  return devices;
}

VkDevice createDevice(const Instance& vk, const DeviceFacts& facts, DeviceFunctions& functions) {
  FeatureChain chain(deviceExtensions(vk, facts.handle), facts.apiVersion);
  vk.vkGetPhysicalDeviceFeatures2(facts.handle, &chain.core);
  VkPhysicalDeviceFeatures wanted{};
  wanted.shaderInt64 = chain.core.features.shaderInt64;
  wanted.shaderFloat64 = chain.core.features.shaderFloat64;
  wanted.shaderInt16 = chain.core.features.shaderInt16;
  chain.core.features = wanted;
  // Only what kernels use: uniform and push-constant small types, for instance, stay off.
  chain.storage16.uniformAndStorageBuffer16BitAccess = VK_FALSE;
  chain.storage16.storagePushConstant16 = VK_FALSE;
  chain.storage16.storageInputOutput16 = VK_FALSE;
  chain.storage8.uniformAndStorageBuffer8BitAccess = VK_FALSE;
  chain.storage8.storagePushConstant8 = VK_FALSE;
  chain.memoryModel.vulkanMemoryModelDeviceScope = VK_FALSE;
  chain.memoryModel.vulkanMemoryModelAvailabilityVisibilityChains = VK_FALSE;
  chain.matrix.cooperativeMatrixRobustBufferAccess = VK_FALSE;
  chain.bfloat16.shaderBFloat16DotProduct = VK_FALSE;

  const float priority = 1;
  VkDeviceQueueCreateInfo queue{};
  queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queue.queueFamilyIndex = facts.queueFamily;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  VkDeviceCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  create.pNext = &chain.core;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queue;
  create.enabledExtensionCount = static_cast<uint32_t>(chain.extensions.size());
  create.ppEnabledExtensionNames = chain.extensions.data();
  VkDevice device = VK_NULL_HANDLE;
  check(vk.vkCreateDevice(facts.handle, &create, nullptr, &device), "opening the device");
#define TUTTI_VK_LOAD(name)                                                                     \
  functions.name = reinterpret_cast<PFN_##name>(vk.vkGetDeviceProcAddr(device, #name));         \
  if (functions.name == nullptr) throw Error("E_DEVICE", "the Vulkan driver has no " #name);
  TUTTI_VK_DEVICE_FUNCTIONS(TUTTI_VK_LOAD)
#undef TUTTI_VK_LOAD
  return device;
}

std::string resultInWords(VkResult result) {
  switch (result) {
    case VK_SUCCESS: return "VK_SUCCESS";
    case VK_NOT_READY: return "VK_NOT_READY";
    case VK_TIMEOUT: return "VK_TIMEOUT";
    case VK_INCOMPLETE: return "VK_INCOMPLETE";
    case VK_ERROR_OUT_OF_HOST_MEMORY: return "VK_ERROR_OUT_OF_HOST_MEMORY (the host has no memory left)";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY: return "VK_ERROR_OUT_OF_DEVICE_MEMORY (the device has no memory left)";
    case VK_ERROR_INITIALIZATION_FAILED: return "VK_ERROR_INITIALIZATION_FAILED (the driver could not start)";
    case VK_ERROR_DEVICE_LOST: return "VK_ERROR_DEVICE_LOST (the device was reset, removed, or a kernel ran too long)";
    case VK_ERROR_MEMORY_MAP_FAILED: return "VK_ERROR_MEMORY_MAP_FAILED (device memory could not be mapped)";
    case VK_ERROR_LAYER_NOT_PRESENT: return "VK_ERROR_LAYER_NOT_PRESENT";
    case VK_ERROR_EXTENSION_NOT_PRESENT: return "VK_ERROR_EXTENSION_NOT_PRESENT";
    case VK_ERROR_FEATURE_NOT_PRESENT: return "VK_ERROR_FEATURE_NOT_PRESENT";
    case VK_ERROR_INCOMPATIBLE_DRIVER: return "VK_ERROR_INCOMPATIBLE_DRIVER (no usable driver)";
    case VK_ERROR_TOO_MANY_OBJECTS: return "VK_ERROR_TOO_MANY_OBJECTS (too many allocations)";
    case VK_ERROR_FRAGMENTED_POOL: return "VK_ERROR_FRAGMENTED_POOL";
    case VK_ERROR_OUT_OF_POOL_MEMORY: return "VK_ERROR_OUT_OF_POOL_MEMORY";
    case VK_ERROR_INVALID_EXTERNAL_HANDLE: return "VK_ERROR_INVALID_EXTERNAL_HANDLE";
    case VK_ERROR_INVALID_SHADER_NV: return "VK_ERROR_INVALID_SHADER_NV (the driver refused the SPIR-V)";
    case VK_ERROR_UNKNOWN: return "VK_ERROR_UNKNOWN";
    default: return "VkResult " + std::to_string(static_cast<int>(result));
  }
}

void check(VkResult result, const char* doing) {
  if (result == VK_SUCCESS) return;
  const std::string message = std::string(doing) + " failed: " + resultInWords(result);
  switch (result) {
    case VK_ERROR_OUT_OF_HOST_MEMORY:
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    case VK_ERROR_TOO_MANY_OBJECTS:
    case VK_ERROR_OUT_OF_POOL_MEMORY:
      throw Error("E_OUT_OF_MEMORY", message);
    case VK_ERROR_DEVICE_LOST:
      throw Error("E_DEVICE_LOST", message);
    default:
      throw Error("E_DEVICE", message);
  }
}

}  // namespace tutti::vulkan

#endif
