/** Devices behind a driver library that an environment variable names: this machine's, and the virtual one where it is built. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend, Device, Driver } from '../../backends/backend.js';
import { repository } from './data.js';

export class LibraryDevices {
  readonly #backend: Backend;
  readonly #variable: string;
  /** What the variable names, or what `npm run build:virtual` builds. */
  readonly virtualLibrary: string;

  constructor(backend: Backend, variable: string, virtualFile: string) {
    this.#backend = backend;
    this.#variable = variable;
    this.virtualLibrary = process.env[variable] || join(repository, 'build', 'virtual', virtualFile);
  }

  /** A driver of one library; empty for the system's. */
  async driver(library: string): Promise<Driver> {
    const before = process.env[this.#variable];
    process.env[this.#variable] = library;
    try {
      return await this.#backend.driver({});
    } finally {
      if (before === undefined) delete process.env[this.#variable];
      else process.env[this.#variable] = before;
    }
  }

  async open(library: string): Promise<Device> {
    const driver = await this.driver(library);
    const [info] = await driver.enumerate();
    if (!info) throw new Error(`${library || 'the system'} offers no ${this.#backend.name} device`);
    return driver.open(info.id);
  }

  /**
   * Names and libraries of what there is. The system's first: once the stand-in is loaded, asking for the system's
   * library by its name would give the stand-in.
   */
  async found(): Promise<readonly (readonly [name: string, library: string])[]> {
    const candidates = [
      ['the first device of this machine', ''],
      ['the virtual device', existsSync(this.virtualLibrary) ? this.virtualLibrary : undefined],
    ] as const;
    const found: (readonly [string, string])[] = [];
    for (const [name, library] of candidates) {
      if (library === undefined) continue;
      const probed = await (await this.driver(library)).probe();
      if (probed.ok) found.push([name, library]);
    }
    return found;
  }
}
