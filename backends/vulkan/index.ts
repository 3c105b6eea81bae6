/** The vulkan backend: SPIR-V on any Vulkan 1.1 device, software drivers included. */
import type { Backend } from '../backend.js';
import { openDriver } from './driver.js';
import { render } from './render.js';
import { describe, target } from './target.js';

export const vulkanBackend: Backend = { name: 'vulkan', describe, target, render, driver: openDriver };
