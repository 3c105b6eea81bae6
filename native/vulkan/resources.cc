// Buffers, kernels and command lists.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <algorithm>
#include <cstring>

#include "device.h"

namespace tutti::vulkan {

namespace {

constexpr VkPipelineStageFlags kWork = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
constexpr VkAccessFlags kWrites = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
constexpr VkAccessFlags kAll = kWrites | VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT;

void barrier(const DeviceFunctions& vk, VkCommandBuffer commands, bool toHost) {
  VkMemoryBarrier memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = kWrites;
  memory.dstAccessMask = toHost ? kAll | VK_ACCESS_HOST_READ_BIT : kAll;
  vk.vkCmdPipelineBarrier(commands, kWork, toHost ? kWork | VK_PIPELINE_STAGE_HOST_BIT : kWork, 0, 1, &memory, 0,
                          nullptr, 0, nullptr);
}

/** Fills any byte range: vkCmdFillBuffer takes whole words, so ragged ends are copied from the pattern buffer. */
void fill(const Core& core, VkCommandBuffer commands, const Binding& to, uint8_t byte) {
  const uint64_t begin = to.offset, end = to.offset + to.bytes;
  const uint64_t firstWord = std::min((begin + 3) / 4 * 4, end), lastWord = std::max(end / 4 * 4, firstWord);
  const auto ragged = [&](uint64_t from, uint64_t until) {
    if (from >= until) return;
    const VkBufferCopy copy{4ull * byte, from, until - from};
    core.vk.vkCmdCopyBuffer(commands, core.patterns->handle, to.buffer->handle, 1, &copy);
  };
  ragged(begin, firstWord);
  if (lastWord > firstWord)
    core.vk.vkCmdFillBuffer(commands, to.buffer->handle, firstWord, lastWord - firstWord, byte * 0x01010101u);
  ragged(lastWord, end);
}

}  // namespace

Resource::Resource(std::shared_ptr<Core> core) : core_(std::move(core)) {}
void Resource::retire() { core_->retire(this); }

Buffer::Buffer(std::shared_ptr<Core> owner, uint64_t wanted)
    : Resource(std::move(owner)), bytes(wanted), size(std::max<uint64_t>((wanted + 3) / 4 * 4, 4)) {
  VkBufferCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  create.size = size;
  create.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  create.sharingMode = VK_SHARING_MODE_EXCLUSIVE;
  Core& c = core();
  c.add(this);
  try {
    check(c.vk.vkCreateBuffer(c.device, &create, nullptr, &handle), "creating a buffer");
    const Core::MemoryBlock block = c.allocateMemory(handle, false);
    memory = block.memory;
    mapped = block.mapped;
    c.allocatedBytes += size;
  } catch (...) {
    retire();
    throw;
  }
}

void Buffer::destroy() {
  Core& c = core();
  if (handle != VK_NULL_HANDLE) c.vk.vkDestroyBuffer(c.device, handle, nullptr);
  if (memory != VK_NULL_HANDLE) {
    c.vk.vkFreeMemory(c.device, memory, nullptr);
    c.allocatedBytes -= size;
  }
  handle = VK_NULL_HANDLE;
  memory = VK_NULL_HANDLE;
  mapped = nullptr;
}

Kernel::Kernel(std::shared_ptr<Core> owner, const KernelSource& source)
    : Resource(std::move(owner)), bindings(source.bindings), scalarBytes(source.scalarBytes) {
  Core& c = core();
  c.add(this);
  VkShaderModule module = VK_NULL_HANDLE;
  try {
    std::vector<VkDescriptorSetLayoutBinding> slots(bindings);
    for (uint32_t i = 0; i < bindings; ++i)
      slots[i] = {i, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr};
    VkDescriptorSetLayoutCreateInfo set{};
    set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
    set.bindingCount = bindings;
    set.pBindings = slots.data();
    check(c.vk.vkCreateDescriptorSetLayout(c.device, &set, nullptr, &setLayout), "creating a descriptor set layout");

    const VkPushConstantRange push{VK_SHADER_STAGE_COMPUTE_BIT, 0, scalarBytes};
    VkPipelineLayoutCreateInfo pipe{};
    pipe.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
    pipe.setLayoutCount = 1;
    pipe.pSetLayouts = &setLayout;
    pipe.pushConstantRangeCount = scalarBytes > 0 ? 1 : 0;
    pipe.pPushConstantRanges = &push;
    check(c.vk.vkCreatePipelineLayout(c.device, &pipe, nullptr, &layout), "creating a pipeline layout");

    VkShaderModuleCreateInfo shader{};
    shader.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
    shader.codeSize = source.words.size() * sizeof(uint32_t);
    shader.pCode = source.words.data();
    check(c.vk.vkCreateShaderModule(c.device, &shader, nullptr, &module), "creating a shader module");

    VkPipelineShaderStageRequiredSubgroupSizeCreateInfo subgroup{};
    subgroup.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO;
    subgroup.requiredSubgroupSize = source.subgroupSize;
    VkComputePipelineCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
    create.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    create.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    create.stage.module = module;
    create.stage.pName = source.entry.c_str();
    if (source.subgroupSize != 0 && c.facts.subgroupSizeControl) create.stage.pNext = &subgroup;
    create.layout = layout;
    check(c.vk.vkCreateComputePipelines(c.device, c.pipelineCache, 1, &create, nullptr, &pipeline),
          "creating a compute pipeline");
    c.vk.vkDestroyShaderModule(c.device, module, nullptr);
  } catch (...) {
    if (module != VK_NULL_HANDLE) c.vk.vkDestroyShaderModule(c.device, module, nullptr);
    retire();
    throw;
  }
}

void Kernel::destroy() {
  Core& c = core();
  if (pipeline != VK_NULL_HANDLE) c.vk.vkDestroyPipeline(c.device, pipeline, nullptr);
  if (layout != VK_NULL_HANDLE) c.vk.vkDestroyPipelineLayout(c.device, layout, nullptr);
  if (setLayout != VK_NULL_HANDLE) c.vk.vkDestroyDescriptorSetLayout(c.device, setLayout, nullptr);
  pipeline = VK_NULL_HANDLE;
  layout = VK_NULL_HANDLE;
  setLayout = VK_NULL_HANDLE;
}

List::List(std::shared_ptr<Core> owner, std::vector<ListCommand> commands)
    : Resource(std::move(owner)), commands_(std::move(commands)) {
  Core& c = core();
  c.add(this);
  try {
    VkCommandPoolCreateInfo pool{};
    pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
    pool.queueFamilyIndex = c.facts.queueFamily;
    check(c.vk.vkCreateCommandPool(c.device, &pool, nullptr, &pool_), "creating a command pool");
    allocateSets();
    plain_ = record(false);
  } catch (...) {
    retire();
    throw;
  }
}

void List::allocateSets() {
  Core& c = core();
  uint32_t slots = 0;
  for (const ListCommand& command : commands_) {
    if (command.kind != ListCommand::Kind::dispatch) continue;
    ++dispatches_;
    slots += command.kernel->bindings;
  }
  if (slots == 0) return;
  const VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, slots};
  VkDescriptorPoolCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
  create.maxSets = static_cast<uint32_t>(dispatches_);
  create.poolSizeCount = 1;
  create.pPoolSizes = &size;
  check(c.vk.vkCreateDescriptorPool(c.device, &create, nullptr, &descriptors_), "creating a descriptor pool");

  std::vector<VkDescriptorBufferInfo> ranges;
  std::vector<VkWriteDescriptorSet> writes;
  for (ListCommand& command : commands_) {
    if (command.kind != ListCommand::Kind::dispatch || command.bindings.empty()) continue;
    VkDescriptorSetAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
    allocate.descriptorPool = descriptors_;
    allocate.descriptorSetCount = 1;
    allocate.pSetLayouts = &command.kernel->setLayout;
    check(c.vk.vkAllocateDescriptorSets(c.device, &allocate, &command.set), "allocating a descriptor set");
    ranges.clear();
    writes.clear();
    for (const Binding& binding : command.bindings) {
      // Whole words, for kernels that read packed types by the word.
      const uint64_t bytes = std::min((binding.bytes + 3) / 4 * 4, binding.buffer->size - binding.offset);
      ranges.push_back({binding.buffer->handle, binding.offset, bytes});
    }
    VkWriteDescriptorSet write{};
    write.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
    write.dstSet = command.set;
    write.descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    write.descriptorCount = static_cast<uint32_t>(ranges.size());
    write.pBufferInfo = ranges.data();
    c.vk.vkUpdateDescriptorSets(c.device, 1, &write, 0, nullptr);
  }
}

VkCommandBuffer List::commands(bool profile) {
  if (!profile || dispatches_ == 0 || core().facts.timestampBits == 0) return plain_;
  if (instrumented_ == VK_NULL_HANDLE) {
    Core& c = core();
    if (queries_ == VK_NULL_HANDLE) {
      VkQueryPoolCreateInfo create{};
      create.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
      create.queryType = VK_QUERY_TYPE_TIMESTAMP;
      create.queryCount = static_cast<uint32_t>(2 * dispatches_);
      check(c.vk.vkCreateQueryPool(c.device, &create, nullptr, &queries_), "creating a query pool");
    }
    instrumented_ = record(true);
  }
  return instrumented_;
}

VkCommandBuffer List::record(bool profile) {
  Core& c = core();
  const DeviceFunctions& vk = c.vk;
  VkCommandBufferAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  allocate.commandPool = pool_;
  allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  allocate.commandBufferCount = 1;
  VkCommandBuffer commands = VK_NULL_HANDLE;
  check(vk.vkAllocateCommandBuffers(c.device, &allocate, &commands), "allocating a command buffer");
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT;  // replays may queue up behind each other
  check(vk.vkBeginCommandBuffer(commands, &begin), "recording");
  if (profile) vk.vkCmdResetQueryPool(commands, queries_, 0, static_cast<uint32_t>(2 * dispatches_));
  uint32_t query = 0;
  VkPipeline bound = VK_NULL_HANDLE;
  for (const ListCommand& command : commands_) {
    switch (command.kind) {
      case ListCommand::Kind::dispatch: {
        const Kernel& kernel = *command.kernel;
        if (bound != kernel.pipeline) vk.vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, kernel.pipeline);
        bound = kernel.pipeline;
        if (command.set != VK_NULL_HANDLE)
          vk.vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, kernel.layout, 0, 1, &command.set, 0,
                                     nullptr);
        if (!command.scalars.empty())
          vk.vkCmdPushConstants(commands, kernel.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                                static_cast<uint32_t>(command.scalars.size()), command.scalars.data());
        if (profile) vk.vkCmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries_, query++);
        vk.vkCmdDispatch(commands, command.grid[0], command.grid[1], command.grid[2]);
        if (profile) vk.vkCmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries_, query++);
        break;
      }
      case ListCommand::Kind::copy: {
        const Binding& from = command.bindings[0];
        const Binding& to = command.bindings[1];
        if (from.bytes == 0) break;
        const VkBufferCopy copy{from.offset, to.offset, from.bytes};
        vk.vkCmdCopyBuffer(commands, from.buffer->handle, to.buffer->handle, 1, &copy);
        break;
      }
      case ListCommand::Kind::fill:
        fill(c, commands, command.bindings[0], command.byte);
        break;
      case ListCommand::Kind::barrier:
        barrier(vk, commands, false);
        break;
    }
  }
  barrier(vk, commands, true);  // for the next submission and for the host
  check(vk.vkEndCommandBuffer(commands), "recording");
  return commands;
}

void List::destroy() {
  Core& c = core();
  if (queries_ != VK_NULL_HANDLE) c.vk.vkDestroyQueryPool(c.device, queries_, nullptr);
  if (descriptors_ != VK_NULL_HANDLE) c.vk.vkDestroyDescriptorPool(c.device, descriptors_, nullptr);
  if (pool_ != VK_NULL_HANDLE) c.vk.vkDestroyCommandPool(c.device, pool_, nullptr);
  queries_ = VK_NULL_HANDLE;
  descriptors_ = VK_NULL_HANDLE;
  pool_ = VK_NULL_HANDLE;
}

}  // namespace tutti::vulkan

#endif
