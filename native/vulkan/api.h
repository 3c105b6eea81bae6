// The Vulkan entry points we use, as tables filled at run time. Nothing is linked: the loader is opened with dlopen, so
// that the add-on loads on machines without Vulkan and can say what is missing.

#pragma once

#ifndef TUTTI_NO_VULKAN_HEADERS

#define VK_NO_PROTOTYPES
#define VK_ENABLE_BETA_EXTENSIONS
#include <vulkan/vulkan.h>

#include <memory>
#include <string>
#include <vector>

#include "../common/driver.h"
#include "matrices.h"

namespace tutti::vulkan {

#define TUTTI_VK_INSTANCE_FUNCTIONS(F)                                                                              \
  F(vkDestroyInstance) F(vkEnumeratePhysicalDevices) F(vkGetPhysicalDeviceProperties2) F(vkGetPhysicalDeviceProperties) \
  F(vkGetPhysicalDeviceFeatures2) F(vkGetPhysicalDeviceMemoryProperties) F(vkGetPhysicalDeviceQueueFamilyProperties)    \
  F(vkEnumerateDeviceExtensionProperties) F(vkCreateDevice) F(vkGetDeviceProcAddr)

#define TUTTI_VK_DEVICE_FUNCTIONS(F)                                                                                  \
  F(vkDestroyDevice) F(vkGetDeviceQueue) F(vkQueueSubmit) F(vkDeviceWaitIdle)                                         \
  F(vkCreateFence) F(vkDestroyFence) F(vkResetFences) F(vkWaitForFences)                                              \
  F(vkCreateBuffer) F(vkDestroyBuffer) F(vkGetBufferMemoryRequirements) F(vkBindBufferMemory)                         \
  F(vkAllocateMemory) F(vkFreeMemory) F(vkMapMemory)                                                                  \
  F(vkCreateCommandPool) F(vkDestroyCommandPool) F(vkAllocateCommandBuffers) F(vkFreeCommandBuffers)                  \
  F(vkBeginCommandBuffer) F(vkEndCommandBuffer) F(vkResetCommandBuffer)                                               \
  F(vkCmdBindPipeline) F(vkCmdBindDescriptorSets) F(vkCmdPushConstants) F(vkCmdDispatch)                              \
  F(vkCmdCopyBuffer) F(vkCmdFillBuffer) F(vkCmdPipelineBarrier)                                                       \
  F(vkCmdResetQueryPool) F(vkCmdWriteTimestamp) F(vkCreateQueryPool) F(vkDestroyQueryPool) F(vkGetQueryPoolResults)   \
  F(vkCreateShaderModule) F(vkDestroyShaderModule) F(vkCreateComputePipelines) F(vkDestroyPipeline)                   \
  F(vkCreatePipelineLayout) F(vkDestroyPipelineLayout)                                                                \
  F(vkCreateDescriptorSetLayout) F(vkDestroyDescriptorSetLayout) F(vkCreateDescriptorPool)                            \
  F(vkDestroyDescriptorPool) F(vkAllocateDescriptorSets) F(vkUpdateDescriptorSets)                                    \
  F(vkCreatePipelineCache) F(vkDestroyPipelineCache) F(vkGetPipelineCacheData)

#define TUTTI_VK_MEMBER(name) PFN_##name name = nullptr;

/** One VkInstance with the drivers that `icd` selects. Instances live as long as the process. */
struct Instance {
  VkInstance handle = VK_NULL_HANDLE;
  uint32_t loaderVersion = VK_API_VERSION_1_0;
  TUTTI_VK_INSTANCE_FUNCTIONS(TUTTI_VK_MEMBER)
  /** Null where no driver has it. */
  TUTTI_VK_MEMBER(vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)
};

struct DeviceFunctions {
  TUTTI_VK_DEVICE_FUNCTIONS(TUTTI_VK_MEMBER)
};

#undef TUTTI_VK_MEMBER

struct DeviceFacts : gpu::DeviceFacts {  // id: deviceUUID in hex
  VkPhysicalDevice handle = VK_NULL_HANDLE;
  uint32_t queueFamily = 0;
  uint32_t timestampBits = 0;
  double timestampNanoseconds = 0;
  uint32_t apiVersion = 0;
  uint32_t driverVersion = 0;
  uint32_t vendorId = 0;
  uint32_t deviceId = 0;
  uint8_t cacheUuid[VK_UUID_SIZE] = {};
  bool subgroupSizeControl = false;
  /** Workgroups of whole subgroups can be asked for. */
  bool fullSubgroups = false;
};

/**
 * The instance for an ICD file, or for all that the loader finds where `icd` is empty. Throws Error E_DEVICE with the
 * reason in words. Call it on any thread.
 */
std::shared_ptr<Instance> instanceFor(const std::string& icd);

/** Devices that can compute, in the loader's order. */
std::vector<DeviceFacts> enumerateDevices(const Instance& instance);

/** Creates a VkDevice with one compute queue and every feature that `facts` names. */
VkDevice createDevice(const Instance& instance, const DeviceFacts& facts, DeviceFunctions& functions);

/** `VK_ERROR_DEVICE_LOST` and the like, with what it means. */
std::string resultInWords(VkResult result);

/** Throws Error with the code that fits `result` unless it is VK_SUCCESS. */
void check(VkResult result, const char* doing);

}  // namespace tutti::vulkan

#endif
