// Debian's Chromium with WebGPU on SwiftShader, for tests of what browsers run. `TUTTI_CHROMIUM`, or /usr/bin/chromium.
import { existsSync } from 'node:fs';
import { type Browser, chromium as launcher } from 'playwright-core';

export const chromium = process.env.TUTTI_CHROMIUM || '/usr/bin/chromium';

/** Why tests in a browser are skipped; undefined where it is there. */
export const chromiumMissing = existsSync(chromium)
  ? undefined
  : `${chromium} is missing (Debian: apt-get install chromium; elsewhere set TUTTI_CHROMIUM)`;

/** A browser that talks to this machine only. */
export const launchChromium = (): Promise<Browser> =>
  launcher.launch({
    executablePath: chromium,
    args: [
      '--no-sandbox',
      '--enable-unsafe-webgpu',
      '--use-webgpu-adapter=swiftshader',
      '--enable-features=Vulkan',
      '--use-vulkan=swiftshader',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
