/** Devices behind a driver library that an environment variable names: this machine's, and the virtual one where it is built. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend, Device, Driver, DriverOptions } from '../../backends/backend.js';
import { repository } from './data.js';
import { withEnvironment } from './environment.js';

export interface OpenOptions extends DriverOptions {
  /** Every transfer goes as on a device whose memory the host does not see. */
  readonly staging?: boolean;
}

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
  driver(library: string, options: DriverOptions = {}): Promise<Driver> {
    return withEnvironment({ [this.#variable]: library }, () => this.#backend.driver(options));
  }

  /** The first device. */
  async open(library: string, { staging = false, ...options }: OpenOptions = {}): Promise<Device> {
    const driver = await this.driver(library, options);
    const [info] = await driver.enumerate();
    if (!info) throw new Error(`${library || 'the system'} offers no ${this.#backend.name} device`);
    const variable = `TUTTI_${this.#backend.name.toUpperCase()}_STAGING`;
    return withEnvironment({ [variable]: staging ? '1' : undefined }, () => driver.open(info.id));
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
