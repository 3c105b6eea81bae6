// Artifacts: what is written reads back equal, twice the same bytes; whatever is damaged is found.
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type ArtifactModel,
  createSha256,
  isArtifact,
  readArtifact,
  sha256,
  writeArtifact,
} from '../../compiler/artifact/index.js';
import { readSafetensors } from '../../compiler/artifact/safetensors.js';
import { readTar, tarEnd, tarHeader, tarPadding } from '../../compiler/artifact/tar.js';
import { bitsOf, type DType, dtypes, isPacked, perByte } from '../../compiler/dtype.js';
import { TuttiError } from '../../compiler/error.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { dimName } from '../../compiler/graph/dims.js';
import { printGraph } from '../../compiler/graph/print.js';
import type { Graph } from '../../compiler/graph/types.js';
import { bytesOfTensor, emptyTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { createHasher } from '../../runtime/node.js';

/** Contents that differ from type to type and from place to place. */
function filled(dtype: DType, shape: readonly number[], seed: number): HostTensor {
  if (dtype === 'string') {
    return { dtype, shape, data: Array.from({ length: sizeOf(shape) }, (_, i) => `text ${seed} ${i} é\n`) };
  }
  const tensor = emptyTensor(dtype, shape);
  bytesOfTensor(tensor).forEach((_, i, bytes) => {
    bytes[i] = dtype === 'bool' ? (i * seed) % 2 : (i * 31 + seed * 7) % 251;
  });
  // The unused part of the last byte is no data.
  const used = (sizeOf(shape) % perByte(dtype)) * bitsOf(dtype);
  const bytes = bytesOfTensor(tensor);
  if (isPacked(dtype) && used > 0) bytes[bytes.byteLength - 1] &= 2 ** used - 1;
  return tensor;
}

/** A graph whose outputs are its constants (one of each dtype, small and large, with repeats) and one op. */
function everyType(): Graph {
  const g = new GraphBuilder('every type');
  g.dim('n', { min: 1, max: 64 });
  const x = g.input('x', 'f32', [dimName('n'), 33]);
  for (const [i, dtype] of dtypes.entries()) {
    for (const shape of [[], [3, 11], [0, 4], [5, 7, 2]]) {
      const name = `${dtype}_${shape.join('x')}`;
      g.output(name, g.constant(filled(dtype, shape, i + 1), name));
    }
  }
  const repeated = filled('f32', [33], 5);
  const [a] = g.op('broadcast', [g.constant(repeated, 'a')], { shape: [dimName('n'), 33] });
  const [b] = g.op('broadcast', [g.constant({ ...repeated }, 'b')], { shape: [dimName('n'), 33] });
  const [sum] = g.op('add', [a, b], {});
  const [y] = g.op('mul', [x, sum], {});
  g.output('y', y);
  return g.finish();
}

const model: ArtifactModel = {
  graph: everyType(),
  numerics: 'strict',
  shapes: { x: [2, 33] },
  dims: { n: 2 },
  sourceDigest: 'ab'.repeat(32),
};

const join = (chunks: Iterable<Uint8Array>): Uint8Array => new Uint8Array(Buffer.concat([...chunks]));
const written = join(writeArtifact(model));
const contents = ({ graph, ...rest }: ArtifactModel) => ({
  ...rest,
  text: printGraph(graph, { keyOf: (_, name) => name }),
  constants: [...graph.constants.values()].map((data) => ({ ...data.load() })),
});

function failure(bytes: Uint8Array): TuttiError | undefined {
  try {
    const read = readArtifact(bytes, createHasher);
    expect(contents(read)).toEqual(contents(model));
    return undefined;
  } catch (error) {
    if (error instanceof TuttiError && error.code === 'E_ARTIFACT') return error;
    throw error;
  }
}

describe('sha256', () => {
  it('agrees with the standard and with another implementation', () => {
    const text = (value: string) => new TextEncoder().encode(value);
    expect(sha256(text('abc'))).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
    expect(sha256(text(''))).toBe('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 6 }), (parts) => {
        const own = createSha256();
        const other = createHash('sha256');
        for (const part of parts) {
          own.update(part);
          other.update(part);
        }
        expect(own.digest()).toBe(other.digest('hex'));
      }),
    );
  });
});

describe('writing and reading', () => {
  it('gives back the model', () => {
    const read = readArtifact(written);
    expect(contents(read)).toEqual(contents(model));
    expect(isArtifact(written)).toBe(true);
  });

  it('writes the same bytes every time, whichever hash is used', () => {
    expect(join(writeArtifact({ ...model, graph: everyType() }, createHasher))).toEqual(written);
    expect(join(writeArtifact(readArtifact(written)))).toEqual(written);
  });

  it('stores equal weights once and uses them in place, on their boundaries', () => {
    const entries = [...readTar(written).values()];
    const header = new Uint8Array(written.buffer, written.byteOffset, written.byteLength);
    const blob = entries
      .map(({ offset, size }) => header.subarray(offset, offset + size))
      .find((bytes) => new TextDecoder().decode(bytes.subarray(8, 400)).includes('data_offsets'));
    const tensors = readSafetensors(blob as Uint8Array);
    const { graph } = readArtifact(written);
    const named = (name: string) => {
      const value = graph.nodes.flatMap(({ inputs }) => inputs).find((input) => input.name === name);
      return graph.constants.get(value?.id ?? -1);
    };
    expect(named('a')).toBe(named('b'));
    expect([...tensors.keys()].filter((key) => key.startsWith('f32.33.'))).toHaveLength(1);
    for (const data of tensors.values()) {
      if (data.dtype !== 'string') expect(bytesOfTensor(data.load()).buffer).toBe(written.buffer);
    }
    const [large] = [...graph.constants.values()].filter(({ dtype, shape }) => dtype === 'f64' && shape.length === 3);
    expect(bytesOfTensor(large.load()).buffer).toBe(written.buffer);
  });

  it('is a tar archive that other tools read', async () => {
    const { execFileSync } = await import('node:child_process');
    const list = execFileSync('tar', ['-tvf', '-'], { input: written, encoding: 'utf8' }).trim().split('\n');
    expect(list).toHaveLength(7);
    expect(list[0]).toMatch(/oci-layout$/);
    expect(list[1]).toMatch(/index\.json$/);
    expect(list.slice(2).every((line) => /blobs\/sha256\/[0-9a-f]{64}$/.test(line))).toBe(true);
  });

  it('reads what other tools packed again', async () => {
    const { execFileSync } = await import('node:child_process');
    const { mkdtempSync, rmSync } = await import('node:fs');
    const { tmpdir } = await import('node:os');
    const folder = mkdtempSync(`${tmpdir()}/artifact-`);
    try {
      execFileSync('tar', ['-xf', '-', '-C', folder], { input: written });
      const packed = execFileSync('tar', ['--format=ustar', '-cf', '-', '-C', folder, '.']);
      expect(contents(readArtifact(packed))).toEqual(contents(model));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('damage', () => {
  it('finds every cut', () => {
    for (let length = 0; length < written.byteLength; length += 997) {
      expect(failure(written.subarray(0, length)), `cut to ${length}`).toBeDefined();
    }
    for (const length of [written.byteLength - 1, written.byteLength - 512, written.byteLength - 1024]) {
      expect(failure(written.subarray(0, length)), `cut to ${length}`).toBeDefined();
    }
  });

  it('finds every changed byte, or reads the same in spite of it', () => {
    const bytes = written.slice();
    let unharmed = 0;
    const flip = (at: number, mask: number) => {
      bytes[at] ^= mask;
      if (failure(bytes) === undefined) unharmed++;
      bytes[at] ^= mask;
    };
    // All of the documents at the start, then all over the file.
    for (let at = 0; at < 3072; at++) flip(at, 1 << (at % 8));
    for (let at = 3072; at < bytes.byteLength; at += 13) flip(at, 1 + (at % 255));
    fc.assert(
      fc.property(fc.nat(bytes.byteLength - 1), fc.integer({ min: 1, max: 255 }), (at, mask) => flip(at, mask)),
      { numRuns: 500 },
    );
    // Blanks in numbers of tar headers and the media type in index.json are all that may be otherwise.
    expect(unharmed).toBeLessThan(100);
  });

  it('survives random edits that keep the digests right', () => {
    // Blobs with changed content under their new digests: everything after the digests must hold, too.
    const entries = [...readTar(written).values()].filter(({ name }) => name.startsWith('blobs/'));
    const blobs = entries.map(({ offset, size }) => written.slice(offset, offset + size));
    const isGraph = (blob: Uint8Array) => new TextDecoder().decode(blob).startsWith('tutti graph 1\n');
    fc.assert(
      fc.property(
        fc.nat(),
        fc.array(fc.record({ at: fc.nat(), byte: fc.integer({ min: 0, max: 255 }) }), { minLength: 1, maxLength: 3 }),
        (which, edits) => {
          const changed = blobs[which % blobs.length].slice();
          for (const { at, byte } of edits) changed[at % changed.byteLength] = byte;
          const remade = remake(blobs, which % blobs.length, changed);
          try {
            readArtifact(remade, createHasher);
          } catch (error) {
            if (!(error instanceof TuttiError) || error.code !== 'E_ARTIFACT') throw error;
          }
        },
      ),
      { numRuns: 1000 },
    );
    expect(blobs.filter(isGraph)).toHaveLength(1);
  });

  it('refuses absurd sizes before it allocates anything', () => {
    const header = (json: string) => {
      const bytes = new Uint8Array(8 + json.length);
      new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
      bytes.set(new TextEncoder().encode(json), 8);
      return bytes;
    };
    const digest = 'a'.repeat(64);
    const entry = (dims: string, shape: string, end: string) =>
      header(`{"f32.${dims}.${digest}":{"dtype":"F32","shape":[${shape}],"data_offsets":[0,${end}]}}`);
    const cases = [
      entry('4294967296x4294967296', '4294967296,4294967296', '0'),
      entry('1000000000000', '1000000000000', '4000000000000'),
      entry('0', '0', '-1'),
      entry('0', '0', '1e999'),
      header(`{"f32.${digest}":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`),
      header('[]'),
      header('{"x":null}'),
      Uint8Array.of(255, 255, 255, 255, 255, 255, 255, 255),
      new Uint8Array(3),
    ];
    for (const [i, bytes] of cases.entries()) {
      expect(() => readSafetensors(bytes), `case ${i}`).toThrow(expect.objectContaining({ code: 'E_ARTIFACT' }));
    }
  });
});

/** The artifact with one blob replaced and every digest made to fit. */
function remake(blobs: readonly Uint8Array[], which: number, changed: Uint8Array): Uint8Array {
  const renamed = new Map([[sha256(blobs[which], createHasher), changed]]);
  const isDocument = (blob: Uint8Array) => blob[0] === 0x7b;
  const manifest = blobs.findIndex(
    (blob) => isDocument(blob) && new TextDecoder().decode(blob).includes('artifactType'),
  );
  let text = new TextDecoder().decode(manifest === which ? changed : blobs[manifest]);
  const contentsByDigest = new Map<string, Uint8Array>();
  for (const [i, blob] of blobs.entries()) {
    if (i === manifest) continue;
    const old = sha256(blob, createHasher);
    const now = renamed.get(old) ?? blob;
    const digest = sha256(now, createHasher);
    contentsByDigest.set(digest, now);
    text = text.replaceAll(old, digest);
  }
  const newManifest = new TextEncoder().encode(text);
  const digest = sha256(newManifest, createHasher);
  contentsByDigest.set(digest, newManifest);
  const index = JSON.stringify({
    schemaVersion: 2,
    manifests: [
      {
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        digest: `sha256:${digest}`,
        size: newManifest.byteLength,
      },
    ],
  });
  const files: [string, Uint8Array][] = [
    ['oci-layout', new TextEncoder().encode('{"imageLayoutVersion":"1.0.0"}')],
    ['index.json', new TextEncoder().encode(index)],
    ...[...contentsByDigest].map(([name, bytes]): [string, Uint8Array] => [`blobs/sha256/${name}`, bytes]),
  ];
  return join([
    ...files.flatMap(([name, bytes]) => [tarHeader(name, bytes.byteLength), bytes, tarPadding(bytes.byteLength)]),
    tarEnd(),
  ]);
}

it('carries the kernels of targets', () => {
  const b = new GraphBuilder('relu');
  const x = b.input('x', 'f32', [4]);
  b.output('y', b.op('clamp', [x], { min: 0, max: null })[0]);
  const kernels = [
    { target: 'webgpu:wgsl', kernels: [{ name: 'map_clamp_0', text: 'fn main() {}\n' }] },
    { target: 'vulkan:spirv1.3', kernels: [{ name: 'map_clamp_0', words: Uint32Array.of(0x07230203, 1, 0xffffffff) }] },
  ];
  const model: ArtifactModel = { graph: b.finish(), numerics: 'precise', shapes: {}, dims: {}, kernels };
  const chunks = [...writeArtifact(model)];
  const bytes = new Uint8Array(chunks.reduce((total, chunk) => total + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  expect(readArtifact(bytes).kernels).toEqual(kernels);
});
