// MTLDevice and MTLBuffer.
#include <cstdlib>

#include "metal.h"

using namespace vmetal;

namespace {

Device* theDevice() {
  static Device* device = [] {
    defineCommon(classNamed("MTLDevice"));
    Device* d = make<Device>(classNamed("MTLDevice"));
    --d->isa->live;  // lives as long as the process
    return d;
  }();
  return device;
}

/** Apple silicon of the M1's generation, with Metal 3: Apple1…7, Mac2, Common1…3, Metal3. */
bool supports(long family) {
  return (family >= 1001 && family <= 1007) || family == 2002 || (family >= 3001 && family <= 3003) || family == 5001;
}

}  // namespace

EXPORT Object* MTLCopyAllDevices() {
  defineClasses();
  return newArray({theDevice()});
}

bool vmetal::without(const char* what) {
  const char* list = std::getenv("TUTTI_VIRTUAL_METAL_WITHOUT");
  return list && ("," + std::string(list) + ",").find("," + std::string(what) + ",") != std::string::npos;
}

void vmetal::Buffer::dispose() { Memory::instance().release(start); }

void vmetal::defineDevice() {
  Class& device = classNamed("MTLDevice");
  defineCommon(device);
  device.on("name", [](Device*, SEL) -> Object* { return autoreleased(newString("Tutti Virtual Metal")); });
  device.on("registryID", [](Device*, SEL) -> uint64_t { return 0x100000a11; });
  device.on("supportsFamily:", [](Device*, SEL, long family) -> bool { return supports(family) && !without("families"); });
  device.on("hasUnifiedMemory", [](Device*, SEL) -> bool { return !without("unified"); });
  device.on("isLowPower", [](Device*, SEL) -> bool { return false; });
  device.on("maxThreadgroupMemoryLength", [](Device*, SEL) -> UInt { return kThreadgroupBytes; });
  device.on("maxThreadsPerThreadgroup", [](Device*, SEL) -> Size { return {kMaxThreads, kMaxThreads, kMaxThreads}; });
  device.on("maxBufferLength",
            [](Device*, SEL) -> UInt { return std::min<UInt>(kMaxBufferLength, Memory::instance().budget()); });
  device.on("recommendedMaxWorkingSetSize", [](Device*, SEL) -> uint64_t { return Memory::instance().budget(); });
  device.on("currentAllocatedSize", [](Device*, SEL) -> UInt { return Memory::instance().used(); });
  device.on("newBufferWithLength:options:", [](Device*, SEL, UInt bytes, UInt options) -> Object* {
    const UInt storage = (options >> 4) & 15;
    if (storage == 1) die("newBufferWithLength:options: managed storage is not of a device with unified memory");
    if (storage == 3) die("newBufferWithLength:options: a buffer cannot be memoryless");
    if (bytes == 0 || bytes > kMaxBufferLength) return nullptr;
    uint8_t* start = Memory::instance().allocate(bytes);
    if (!start) return nullptr;
    Buffer* b = make<Buffer>(classNamed("MTLBuffer"));
    b->start = start;
    b->bytes = bytes;
    b->isPrivate = storage == 2;
    return b;
  });

  Class& buffer = classNamed("MTLBuffer");
  defineCommon(buffer);
  buffer.on("length", [](Buffer* self, SEL) -> UInt { return self->bytes; });
  buffer.on("contents", [](Buffer* self, SEL) -> void* { return self->isPrivate ? nullptr : self->start; });
  buffer.on("setLabel:", [](Buffer* self, SEL, Object* text) { Memory::instance().label(self->start, textOf(text)); });
}

void vmetal::defineMetal() {
  defineDevice();
  defineLibrary();
  defineQueue();
  defineEncoders();
  defineIndirect();
  defineCounters();
}
