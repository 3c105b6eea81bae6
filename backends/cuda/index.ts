/** The cuda backend: PTX through NVIDIA's driver API. Not yet run on a real card. */
import type { Backend } from '../backend.js';
import { openDriver } from './driver.js';
import { render } from './render.js';
import { describe, target } from './target.js';

export const cudaBackend: Backend = { name: 'cuda', describe, target, render, driver: openDriver };
