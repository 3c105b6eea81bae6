/** Devices on which conformance is run and reported: names of result files, and how each is reached on this machine. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';

export interface ConformanceDevice {
  /** Of the results and of the column in the support matrix. */
  readonly name: string;
  /** As `--device` takes it. */
  readonly device: string;
  readonly env: Readonly<Record<string, string>>;
  /** Why it cannot be run here. */
  readonly missing?: string;
}

/** In the order of the columns. */
export function conformanceDevices(root: string): readonly ConformanceDevice[] {
  const virtual = (name: 'cuda' | 'metal', file: string): ConformanceDevice => {
    const library = join(root, 'build', 'virtual', file);
    const variable = `TUTTI_${name.toUpperCase()}_LIBRARY`;
    return {
      name: `virtual-${name}`,
      device: name,
      env: { [variable]: library },
      ...(existsSync(library) ? {} : { missing: `${library} is not built: npm run build:virtual` }),
    };
  };
  return [
    { name: 'cpu', device: 'cpu', env: {} },
    { name: 'vulkan', device: 'vulkan', env: {} },
    { name: 'webgpu', device: 'webgpu', env: {} },
    virtual('cuda', 'libcuda.so.1'),
    virtual('metal', 'libmetal.so'),
  ];
}
