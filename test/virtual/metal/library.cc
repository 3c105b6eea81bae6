// MTLLibrary, MTLFunction, MTLComputePipelineState, MTLBinaryArchive and their descriptors.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "metal.h"

using namespace vmetal;

namespace {

constexpr const char* kArchiveMagic = "tutti virtual metal archive 1\n";

Object* newLibrary(Object* source, Object* options, Object** error) {
  CompileOptions o;
  if (options) o.fastMath = static_cast<LibraryOptions*>(options)->fastMath;
  try {
    Compiled compiled = compile(textOf(source), o);
    Library* library = make<Library>(classNamed("MTLLibrary"));
    library->compiled = std::move(compiled);
    return library;
  } catch (const std::exception& e) {
    setError(error, "MTLLibraryErrorDomain", 3, std::string("program_source: the library does not compile:\n") + e.what());
    return nullptr;
  }
}

UInt threadgroupBytes(const CompiledKernel& k) {
  UInt sum = 0;
  for (const auto& v : k.variables) sum += (v.bytes + 15) / 16 * 16;
  return sum;
}

Object* newPipeline(PipelineDescriptor* descriptor, UInt options, Object** reflection, Object** error) {
  if (options != 0 || reflection) die("pipelines: options and reflection are not supported by the virtual device");
  if (!descriptor->function) {
    setError(error, "AGXMetalVirtual", 3, "computeFunction must not be nil");
    return nullptr;
  }
  const CompiledKernel& k = descriptor->function->kernel();
  const UInt bytes = threadgroupBytes(k);
  if (bytes > kThreadgroupBytes) {
    setError(error, "AGXMetalVirtual", 3,
             "kernel '" + k.text.name + "': threadgroup memory size (" + std::to_string(bytes) +
                 ") exceeds the maximum threadgroup memory allowed (" + std::to_string(kThreadgroupBytes) + ")");
    return nullptr;
  }
  if (k.variables.size() > kMaxVariables) {
    setError(error, "AGXMetalVirtual", 3,
             "kernel '" + k.text.name + "': more threadgroup variables than the virtual device has places for");
    return nullptr;
  }
  UInt most = kMaxThreads;
  if (k.text.maxTotalThreads) most = std::min<UInt>(most, k.text.maxTotalThreads);
  if (descriptor->maxThreads) most = std::min(most, descriptor->maxThreads);
  Pipeline* p = make<Pipeline>(classNamed("MTLComputePipelineState"));
  p->function = descriptor->function;
  p->indirect = descriptor->indirect;
  p->maxThreads = most;
  p->threadgroupBytes = bytes;
  return p;
}

std::vector<uint8_t> bytesOf(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/** An archive's file: the magic line, then for each object `key bytes\n` and the bytes. */
bool readArchive(Archive& archive, const std::string& path, std::string& why) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    why = "no such file: " + path;
    return false;
  }
  std::string magic(std::strlen(kArchiveMagic), 0);
  in.read(magic.data(), long(magic.size()));
  if (magic != kArchiveMagic) {
    why = path + " is not a binary archive of this device";
    return false;
  }
  for (std::string line; std::getline(in, line);) {
    std::istringstream head(line);
    std::string key;
    size_t bytes = 0;
    if (!(head >> key >> bytes) || bytes > (size_t(1) << 30)) {
      why = path + " is damaged";
      return false;
    }
    std::vector<uint8_t> object(bytes);
    in.read(reinterpret_cast<char*>(object.data()), long(bytes));
    if (size_t(in.gcount()) != bytes) {
      why = path + " is cut short";
      return false;
    }
    archive.objects[key] = std::move(object);
  }
  return true;
}

}  // namespace

void vmetal::defineLibrary() {
  Class& device = classNamed("MTLDevice");
  device.on("newLibraryWithSource:options:error:", [](Device*, SEL, Object* source, Object* options, Object** error) -> Object* {
    return newLibrary(source, options, error);
  });
  device.on("newComputePipelineStateWithDescriptor:options:reflection:error:",
            [](Device*, SEL, PipelineDescriptor* d, UInt options, Object** reflection, Object** error) -> Object* {
              return newPipeline(d, options, reflection, error);
            });
  device.on("newBinaryArchiveWithDescriptor:error:", [](Device*, SEL, ArchiveDescriptor* d, Object** error) -> Object* {
    Archive* archive = make<Archive>(classNamed("MTLBinaryArchive"));
    std::string why;
    if (d->path.empty() || readArchive(*archive, d->path, why)) return archive;
    release(archive);
    setError(error, "MTLBinaryArchiveDomain", 1, why);
    return nullptr;
  });

  Class& options = classNamed("MTLCompileOptions");
  defineCommon(options);
  options.onClass("new", [](Object*, SEL) -> Object* { return make<LibraryOptions>(classNamed("MTLCompileOptions")); });
  options.on("setFastMathEnabled:", [](LibraryOptions* self, SEL, bool on) { self->fastMath = on; });
  options.on("setMathMode:", [](LibraryOptions* self, SEL, long mode) { self->fastMath = mode == 2; });  // safe, relaxed, fast

  Class& library = classNamed("MTLLibrary");
  defineCommon(library);
  library.on("setLabel:", [](Object*, SEL, Object*) {});
  library.on("newFunctionWithName:", [](Library* self, SEL, Object* name) -> Object* {
    const std::string wanted = textOf(name);
    for (size_t i = 0; i < self->compiled.kernels.size(); ++i)
      if (self->compiled.kernels[i].text.name == wanted) {
        Function* f = make<Function>(classNamed("MTLFunction"));
        f->library = Ref<Library>(self);
        f->index = i;
        return f;
      }
    return nullptr;
  });
  Class& function = classNamed("MTLFunction");
  defineCommon(function);
  function.on("setLabel:", [](Object*, SEL, Object*) {});
  function.on("name", [](Function* self, SEL) -> Object* { return autoreleased(newString(self->kernel().text.name)); });

  Class& descriptor = classNamed("MTLComputePipelineDescriptor");
  defineCommon(descriptor);
  descriptor.onClass(
      "new", [](Object*, SEL) -> Object* { return make<PipelineDescriptor>(classNamed("MTLComputePipelineDescriptor")); });
  descriptor.on("setLabel:", [](Object*, SEL, Object*) {});
  descriptor.on("setComputeFunction:", [](PipelineDescriptor* self, SEL, Function* f) { self->function = Ref<Function>(f); });
  descriptor.on("setSupportIndirectCommandBuffers:", [](PipelineDescriptor* self, SEL, bool on) { self->indirect = on; });
  descriptor.on("setMaxTotalThreadsPerThreadgroup:", [](PipelineDescriptor* self, SEL, UInt n) { self->maxThreads = n; });
  descriptor.on("setBinaryArchives:", [](PipelineDescriptor* self, SEL, Array* archives) {
    self->archives.clear();
    if (archives)
      for (const auto& a : archives->items) self->archives.emplace_back(static_cast<Archive*>(a.get()));
  });

  Class& pipeline = classNamed("MTLComputePipelineState");
  defineCommon(pipeline);
  pipeline.on("maxTotalThreadsPerThreadgroup", [](Pipeline* self, SEL) -> UInt { return self->maxThreads; });
  pipeline.on("threadExecutionWidth", [](Pipeline*, SEL) -> UInt { return kSimdWidth; });
  pipeline.on("staticThreadgroupMemoryLength", [](Pipeline* self, SEL) -> UInt { return self->threadgroupBytes; });

  Class& archiveDescriptor = classNamed("MTLBinaryArchiveDescriptor");
  defineCommon(archiveDescriptor);
  archiveDescriptor.onClass(
      "new", [](Object*, SEL) -> Object* { return make<ArchiveDescriptor>(classNamed("MTLBinaryArchiveDescriptor")); });
  archiveDescriptor.on("setUrl:", [](ArchiveDescriptor* self, SEL, Url* url) { self->path = url ? url->path : ""; });

  Class& archive = classNamed("MTLBinaryArchive");
  defineCommon(archive);
  archive.on("setLabel:", [](Object*, SEL, Object*) {});
  archive.on(
      "addComputePipelineFunctionsWithDescriptor:error:", [](Archive* self, SEL, PipelineDescriptor* d, Object** error) -> bool {
        if (!d->function) {
          setError(error, "MTLBinaryArchiveDomain", 3, "the descriptor has no function");
          return false;
        }
        const Compiled& c = d->function->library->compiled;
        self->objects[c.key + "." + d->function->kernel().text.name] = bytesOf(c.object);
        return true;
      });
  archive.on("serializeToURL:error:", [](Archive* self, SEL, Url* url, Object** error) -> bool {
    const std::string temporary = url->path + ".new";
    std::ofstream out(temporary, std::ios::binary);
    out << kArchiveMagic;
    for (const auto& [key, object] : self->objects) {
      out << key << " " << object.size() << "\n";
      out.write(reinterpret_cast<const char*>(object.data()), long(object.size()));
    }
    out.close();
    if (out && std::rename(temporary.c_str(), url->path.c_str()) == 0) return true;
    unlink(temporary.c_str());
    setError(error, "MTLBinaryArchiveDomain", 1, "cannot write " + url->path);
    return false;
  });
}
