/** The metal backend: MSL through Metal. Not yet run on a real device. */
import type { Backend } from '../backend.js';
import { openDriver } from './driver.js';
import { render } from './render.js';
import { describe, target } from './target.js';

export const metalBackend: Backend = { name: 'metal', describe, target, render, driver: openDriver };
