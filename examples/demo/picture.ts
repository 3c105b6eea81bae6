/**
 * A picture made in code, with what photographs have: soft gradients, hard and soft edges, fine texture, shading,
 * shadows, and the noise of a sensor. The same bytes on every machine.
 */
import { encode } from 'fast-png';

export interface Picture {
  readonly width: number;
  readonly height: number;
  /** RGB, 8 bits. */
  readonly data: Uint8Array;
}

export const encodePicture = ({ width, height, data }: Picture): Uint8Array =>
  encode({ width, height, data, depth: 8, channels: 3 });

type Colour = readonly [r: number, g: number, b: number];

/** Uniform in [0, 1) from integers: every pixel's noise can be told without those before it. */
function hash(x: number, y: number, seed: number): number {
  let h = Math.imul(x, 0x85ebca6b) ^ Math.imul(y, 0xc2b2ae35) ^ Math.imul(seed, 0x27d4eb2f);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39);
  return ((h ^ (h >>> 15)) >>> 0) / 2 ** 32;
}

/** Roughly normal, mean 0, variance 1: the sum of four uniform numbers. */
const gauss = (x: number, y: number, seed: number): number =>
  (hash(x, y, seed) + hash(x, y, seed + 1) + hash(x, y, seed + 2) + hash(x, y, seed + 3) - 2) * Math.sqrt(3);

const smooth = (t: number): number => t * t * (3 - 2 * t);
const clamp = (t: number): number => Math.min(1, Math.max(0, t));
/** 0 below `from`, 1 above `to`, soft between. */
const step = (from: number, to: number, t: number): number => smooth(clamp((t - from) / (to - from)));
const mix = (a: Colour, b: Colour, t: number): Colour => [
  a[0] + (b[0] - a[0]) * t,
  a[1] + (b[1] - a[1]) * t,
  a[2] + (b[2] - a[2]) * t,
];
const scale = ([r, g, b]: Colour, s: number): Colour => [r * s, g * s, b * s];

/** Value noise: random values on a lattice, smoothly interpolated. */
function lattice(x: number, y: number, seed: number): number {
  const [i, j] = [Math.floor(x), Math.floor(y)];
  const [u, v] = [smooth(x - i), smooth(y - j)];
  const low = hash(i, j, seed) * (1 - u) + hash(i + 1, j, seed) * u;
  const high = hash(i, j + 1, seed) * (1 - u) + hash(i + 1, j + 1, seed) * u;
  return low * (1 - v) + high * v;
}

/** Octaves of it, mean 1/2. */
function clouds(x: number, y: number, octaves: number, seed: number): number {
  let [sum, total, weight, size] = [0, 0, 1, 1];
  for (let k = 0; k < octaves; k++) {
    sum += weight * lattice(x * size, y * size, seed + k);
    total += weight;
    [weight, size] = [weight / 2, size * 2];
  }
  return sum / total;
}

/** Ridge of a mountain range at x in [0, 1], as y. */
const ridge = (x: number, base: number, height: number, roughness: number, seed: number): number =>
  base - height * clouds(x * roughness, seed * 7.3, 5, seed);

/** The scene at (x, y) in [0, 1]², y downwards. */
function scene(x: number, y: number): Colour {
  let colour = mix([0.16, 0.3, 0.58], [0.98, 0.74, 0.5], step(0, 0.62, y));
  const sky = clouds(x * 5 + 2, y * 12, 5, 11);
  colour = mix(colour, [1, 0.93, 0.86], step(0.52, 0.8, sky) * step(0.62, 0.1, y) * 0.8);
  // The sun, with a halo.
  const sun = Math.hypot(x - 0.68, y - 0.36);
  colour = mix(colour, [1, 0.88, 0.6], Math.exp(-sun * 9) * 0.75);
  colour = mix(colour, [1, 0.97, 0.86], 1 - step(0.052, 0.055, sun));
  const ranges: readonly (readonly [base: number, height: number, roughness: number, near: Colour, seed: number])[] = [
    [0.66, 0.3, 4, [0.52, 0.47, 0.58], 21],
    [0.7, 0.24, 6, [0.34, 0.33, 0.47], 33],
    [0.72, 0.15, 9, [0.17, 0.22, 0.28], 47],
  ];
  for (const [base, height, roughness, near, seed] of ranges) {
    const top = ridge(x, base, height, roughness, seed);
    if (y < top) continue;
    const light = 0.75 + 0.5 * clouds(x * 60, y * 40, 4, seed + 3) * step(0, 0.16, y - top);
    const snow =
      step(0.06, 0.0, y - top) * step(0.5, 0.62, clouds(x * 30, y * 50, 3, seed + 5)) * (seed === 21 ? 1 : 0);
    colour = mix(scale(near, light), [0.96, 0.94, 0.98], snow);
  }
  if (y > 0.7) colour = water(x, y);
  return foreground(x, y, colour);
}

/** A lake that mirrors the sky, with ripples and the glitter of the sun. */
function water(x: number, y: number): Colour {
  const depth = (y - 0.7) / 0.3;
  const ripple = clouds(x * 18, y * 160, 4, 71) - 0.5;
  const mirrored = mix([0.86, 0.66, 0.5], [0.1, 0.2, 0.36], clamp(depth * 1.1 + ripple * 0.55));
  const glitter =
    step(0.6, 0.78, clouds(x * 70, y * 260, 3, 83)) * Math.exp(-(((x - 0.68) / (0.05 + 0.16 * depth)) ** 2));
  return mix(mirrored, [1, 0.92, 0.72], glitter * 0.9);
}

/** A tower with windows and a sail boat: straight edges and fine lines. */
function foreground(x: number, y: number, behind: Colour): Colour {
  let colour = behind;
  const left = 0.12;
  const wide = 0.075 + 0.03 * clamp((y - 0.4) / 0.45);
  if (Math.abs(x - left) < wide / 2 && y > 0.4 && y < 0.86) {
    const across = (x - left) / (wide / 2);
    const stripe = Math.floor((y - 0.4) / 0.046) % 2 === 0;
    const wall: Colour = stripe ? [0.82, 0.2, 0.16] : [0.95, 0.93, 0.88];
    const mortar = 0.9 + 0.1 * step(0.1, 0.2, Math.abs(((y * 110) % 1) - 0.5));
    colour = scale(wall, mortar * (0.55 + 0.45 * Math.sqrt(Math.max(0, 1 - (across - 0.35) ** 2 / 1.9))));
    if (Math.abs(across) < 0.22 && (y * 9) % 1 < 0.28) colour = [0.08, 0.09, 0.14];
  }
  if (Math.abs(x - left) < 0.045 && y > 0.375 && y <= 0.4) colour = [0.13, 0.13, 0.17];
  if (Math.abs(x - left) < 0.026 && y > 0.33 && y <= 0.375) {
    colour = Math.abs(((x * 90) % 1) - 0.5) < 0.1 ? [0.13, 0.13, 0.17] : [1, 0.9, 0.55];
  }
  if (y <= 0.33 && y > 0.295 && Math.abs(x - left) < (y - 0.295) * 0.9) colour = [0.6, 0.14, 0.12];
  const [boatX, boatY] = [0.44, 0.81];
  if (x > boatX && x - boatX < (boatY - y) * 0.42 && y < boatY && y > 0.62) colour = [0.97, 0.96, 0.92];
  if (x < boatX - 0.006 && boatX - x < (boatY - y) * 0.28 && y < boatY && y > 0.66) colour = [0.87, 0.85, 0.8];
  if (Math.abs(x - boatX + 0.003) < 0.0022 && y > 0.6 && y < 0.825) colour = [0.2, 0.13, 0.08];
  const hull = (y - 0.822) / 0.03;
  if (hull > 0 && hull < 1 && Math.abs(x - boatX) < 0.085 - 0.02 * hull)
    colour = scale([0.45, 0.2, 0.12], 1 - 0.45 * hull);
  return colour;
}

/** The scene through a lens and onto a sensor: 2×2 samples a pixel, vignette, noise that grows with the light. */
export function makePicture(size: number, noise = 0.055): Picture {
  const data = new Uint8Array(size * size * 3);
  const samples = [0.25, 0.75];
  for (let py = 0; py < size; py++) {
    for (let px = 0; px < size; px++) {
      const sum = [0, 0, 0];
      for (const dy of samples) {
        for (const dx of samples) {
          const colour = scene((px + dx) / size, (py + dy) / size);
          for (let c = 0; c < 3; c++) sum[c] += colour[c] / 4;
        }
      }
      const off = Math.hypot(px / size - 0.5, py / size - 0.5);
      const vignette = 1 - 0.5 * off * off;
      for (let c = 0; c < 3; c++) {
        const value = clamp(sum[c]) * vignette;
        const grain = gauss(px, py, 100 + 10 * c) * noise * (0.5 + 0.5 * Math.sqrt(value));
        data[(py * size + px) * 3 + c] = Math.round(255 * clamp(value + grain));
      }
    }
  }
  return { width: size, height: size, data };
}
