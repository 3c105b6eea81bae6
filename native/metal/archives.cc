// Binary archives: see archives.h. A cache is no promise: whatever fails here, kernels are compiled.

#include "archives.h"

#include <filesystem>

#include "../common/cache_file.h"

namespace tutti::metal {

namespace {

namespace fs = std::filesystem;

}  // namespace

std::string Archives::fileFor(const gpu::KernelSource& source) const {
  const uint32_t threads = source.workgroup[0] * source.workgroup[1] * source.workgroup[2];
  return cacheFile(folder_, {origin_, source.text, source.entry, std::to_string(threads)}, ".metalarchive");
}

/** The archive in a file, or a new one if there is none that the system takes. */
Ref Archives::open(const std::string& file) const {
  const Ref descriptor = Ref::adopt(rt_, rt_.send.new_(rt_.classes.MTLBinaryArchiveDescriptor));
  if (!file.empty()) rt_.send.setUrl(descriptor.get(), rt_.send.fileURLWithPath(rt_.classes.NSURL, rt_.string(file)));
  id error = nullptr;
  return Ref::adopt(rt_, rt_.send.newBinaryArchive(device_, descriptor.get(), &error));
}

/** Whole or not at all: other processes may read it. */
void Archives::save(id archive, const std::string& file) const {
  try {
    const fs::path target = fs::u8path(file);
    fs::create_directories(target.parent_path());
    const std::string temporary = temporaryFor(file, archive);
    id error = nullptr;
    std::error_code failed;
    if (rt_.send.serializeToURL(archive, rt_.send.fileURLWithPath(rt_.classes.NSURL, rt_.string(temporary)), &error))
      fs::rename(fs::u8path(temporary), target, failed);
    fs::remove(fs::u8path(temporary), failed);
  } catch (const std::exception&) {
  }
}

Ref Archives::pipeline(id descriptor, const gpu::KernelSource& source, id* error) const {
  const auto make = [&] {
    return Ref::adopt(rt_, rt_.send.newComputePipelineState(device_, descriptor, 0, nullptr, error));
  };
  if (folder_.empty()) return make();
  const std::string file = fileFor(source);
  std::error_code unknown;
  Ref archive = fs::exists(fs::u8path(file), unknown) ? open(file) : Ref();
  const bool fresh = !archive;
  if (fresh) {
    archive = open("");
    id why = nullptr;
    // Compiles, so that what follows finds it there.
    if (archive && !rt_.send.addComputePipelineFunctions(archive.get(), descriptor, &why)) archive = Ref();
  }
  if (!archive) return make();
  rt_.send.setBinaryArchives(descriptor, rt_.send.arrayWithObject(rt_.classes.NSArray, archive.get()));
  const Ref made = make();
  if (made && fresh) save(archive.get(), file);
  return made;
}

}  // namespace tutti::metal
