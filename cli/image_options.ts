/** What is said about a picture after its path: layout, range and order of colours. */
import { TuttiError } from '../compiler/error.js';

export const layouts = ['nchw', 'nhwc', 'chw', 'hwc', 'hw'] as const;
export type Layout = (typeof layouts)[number];

export interface ImageOptions {
  readonly layout?: Layout;
  /** Values of black and white: [0, 1], [0, 255], [-1, 1]. Default: [0, 1] for floats, [0, 255] for integers. */
  readonly range?: readonly [number, number];
  /** Order of the colours in the tensor. */
  readonly order?: 'rgb' | 'bgr';
}

/** `nchw,0..1,bgr` in any order. @throws TuttiError E_USAGE */
export function parseImageOptions(text: string, subject: string): ImageOptions {
  const options: { layout?: Layout; range?: [number, number]; order?: 'rgb' | 'bgr' } = {};
  for (const word of text.split(',').filter((part) => part !== '')) {
    const range = /^(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)$/.exec(word);
    const layout = layouts.find((name) => name === word.toLowerCase());
    if (layout !== undefined) options.layout = layout;
    else if (range && Number(range[1]) < Number(range[2])) options.range = [Number(range[1]), Number(range[2])];
    else if (word === 'rgb' || word === 'bgr') options.order = word;
    else {
      throw new TuttiError('E_USAGE', 'unknown option of a picture', {
        subject,
        expected: `${layouts.join(', ')}, rgb, bgr, or a range such as 0..1, 0..255, -1..1`,
        found: word,
      });
    }
  }
  return options;
}
