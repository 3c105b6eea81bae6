// The virtual Metal device as a device: messages and reference counts, buffers, order of commands, indirect command
// buffers, timestamps, archives, faults in words. What it makes of the shading language is in metal-language.test.ts.
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  buildVirtualMetal,
  fromHex,
  MetalFolder,
  msl,
  startVirtualMetal,
  toHex,
  virtualMetal,
  virtualMetalMissing,
  virtualMetalOk,
} from '../support/virtual_metal.js';

const folder = new MetalFolder();
let library = '';
beforeAll(() => {
  if (virtualMetalMissing !== undefined) return;
  buildVirtualMetal();
  library = `library L ${folder.write(msl(kernels))}`;
}, 900_000);
afterAll(() => folder.remove());

/** x[i] = x[i] * m + a over n elements, and what the tests of faults need. */
const kernels = `
kernel void affine(device uint* x [[buffer(0)]], constant uint& m [[buffer(1)]], constant uint& a [[buffer(2)]], constant uint& n [[buffer(3)]], uint i [[thread_position_in_grid]]) {
  if (i < n) x[i] = x[i] * m + a;
}
kernel void add(device const uint* a [[buffer(0)]], device uint* b [[buffer(1)]], uint i [[thread_position_in_grid]]) { b[i] = a[i] + 1; }
kernel void where(device uint4* out [[buffer(0)]], uint3 p [[thread_position_in_grid]], uint3 n [[threads_per_grid]], uint3 g [[threadgroup_position_in_grid]], uint3 groups [[threadgroups_per_grid]], uint t [[thread_index_in_threadgroup]]) {
  out[(p.z * n.y + p.y) * n.x + p.x] = uint4(p, t + 100 * (g.x + groups.x * (g.y + groups.y * g.z)));
}
kernel void
far(device float* out [[buffer(0)]], constant uint& index [[buffer(1)]]) {
  out[index] = 1;
}
kernel void vectors(device float* out [[buffer(0)]], constant uint& index [[buffer(1)]]) {
  *(device float4*)(out + index) = float4(2);
}
kernel void tile(device float* out [[buffer(0)]], constant uint& index [[buffer(1)]]) {
  threadgroup float shared_tile[24];
  shared_tile[index] = 1;
  out[0] = shared_tile[index];
}
kernel void deep(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  uint scratch[65536];
  for (uint k = 0; k < 65536; ++k) scratch[k] = k + i;
  threadgroup_barrier(mem_flags::mem_device);
  out[i] = scratch[out[i] & 65535];
}
kernel void divergent(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  if (i < 40) threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = i;
}
kernel void crossed(device uint* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  if (i & 1) {
    out[i] = 1;
    threadgroup_barrier(mem_flags::mem_threadgroup);
  } else {
    threadgroup_barrier(mem_flags::mem_device);
    out[i] = 2;
  }
}
kernel void half_a_simdgroup(device float* out [[buffer(0)]], uint i [[thread_position_in_threadgroup]]) {
  simdgroup_float8x8 a(1.0f), b(2.0f);
  if (i < 16) simdgroup_multiply(a, a, b);
  out[i] = a.thread_elements()[0];
}
kernel void large(device float* out [[buffer(0)]]) {
  threadgroup float one[8000], two[193];
  one[0] = 1;
  two[0] = 2;
  out[0] = one[0] + two[0];
}
[[max_total_threads_per_threadgroup(64)]] kernel void narrow(device uint* out [[buffer(0)]]) { out[0] = 1; }
kernel void wide(device long4* out [[buffer(0)]], uint i [[thread_position_in_grid]]) { out[i] = long4(i); }
`;
const pipelines = (...names: string[]): string[] => [library, ...names.map((name) => `pipeline ${name} L ${name}`)];
const word = (value: number): string => `bytes:${toHex([value], 32)}`;
const values = (answer: string | undefined): number[] => fromHex(answer ?? '', 32).map(Number);
const last = (answers: readonly string[]): string => answers.at(-1) ?? '';

describe.skipIf(virtualMetalMissing !== undefined)('messages', () => {
  it('is a device of its own name, with the limits of Apple silicon', () => {
    expect(virtualMetalOk(['device'])).toEqual(['Tutti Virtual Metal 1024x1024x1024 32768 apple7 -']);
  });

  it('ends the process at an unknown selector, in words', () => {
    const { ended, stderr } = startVirtualMetal(['message NSString frobnicate:']);
    expect(ended).toBe('SIGABRT');
    expect(stderr).toContain('+[NSString frobnicate:]: unrecognized selector');
  });

  it('finds what is released too often, or used after its release', () => {
    expect(startVirtualMetal(['buffer B 16', 'overrelease B']).stderr).toContain('release to a released MTLBuffer');
    expect(startVirtualMetal(['buffer B 16', 'touch B']).stderr).toContain("message 'length' to a released MTLBuffer");
  });

  it('counts the objects that live', () => {
    const answers = virtualMetalOk([
      ...pipelines('add'),
      'buffer A 64',
      'buffer B 64',
      'run add 1 1 1 16 1 1 @A @B',
      'live',
      'free A',
      'free B',
      'live',
    ]);
    expect(answers.at(-4)).toMatch(
      /^2 MTLBuffer, 1 MTLCommandQueue, 1 MTLComputePipelineState, 1 MTLFunction, 1 MTLLibrary$/,
    );
    expect(last(answers)).toMatch(/^1 MTLCommandQueue/);
  });
});

describe.skipIf(virtualMetalMissing !== undefined)('commands', () => {
  it('runs grids of three dimensions with their positions', () => {
    const answers = virtualMetalOk([
      ...pipelines('where'),
      `buffer O ${16 * 6 * 4 * 6}`,
      'run where 2 2 3 3 2 2 @O',
      `get O 0 ${16 * 6 * 4 * 6}`,
    ]);
    const got = values(last(answers));
    for (let z = 0, at = 0; z < 6; ++z)
      for (let y = 0; y < 4; ++y)
        for (let x = 0; x < 6; ++x, at += 4) {
          const thread = (x % 3) + 3 * ((y % 2) + 2 * (z % 2));
          const group = Math.floor(x / 3) + 2 * (Math.floor(y / 2) + 2 * Math.floor(z / 2));
          expect(got.slice(at, at + 4)).toEqual([x, y, z, thread + 100 * group]);
        }
  });

  it('runs command buffers in the order of their commits, and never those that are not committed', () => {
    const answers = virtualMetalOk([
      ...pipelines('affine'),
      'buffer X 16',
      `put X 0 ${toHex([1, 2, 3, 4], 32)}`,
      'begin',
      `dispatch affine 1 1 1 4 1 1 @X ${word(100)} ${word(0)} ${word(4)}`,
      'drop',
      `run affine 1 1 1 4 1 1 @X ${word(2)} ${word(1)} ${word(4)}`,
      `run affine 4 1 1 1 1 1 @X ${word(3)} ${word(0)} ${word(3)}`,
      'get X 0 16',
    ]);
    expect(values(last(answers))).toEqual([9, 15, 21, 9]);
  });

  it('orders a serial encoder, and a concurrent one at barriers only', () => {
    const chain = (kind: string, between: string[]) =>
      values(
        last(
          virtualMetalOk([
            ...pipelines('add'),
            'buffer A 4',
            'buffer B 4',
            'buffer C 4',
            `begin ${kind}`,
            'dispatch add 1 1 1 1 1 1 @A @B',
            ...between,
            'dispatch add 1 1 1 1 1 1 @B @C',
            'commit',
            'get C 0 4',
          ]),
        ),
      );
    expect(chain('', [])).toEqual([2]);
    expect(chain('concurrent', ['barrier'])).toEqual([2]);
    // A barrier that is missing shows: the second dispatch runs first.
    expect(chain('concurrent', [])).toEqual([1]);
  });

  it('copies and fills whole words, and says what else was asked', () => {
    const blit = (...commands: string[]) =>
      virtualMetal([
        'buffer A 64',
        'buffer P 64 private',
        'buffer B 64',
        `put A 0 ${toHex([1, 2, 3, 4], 32)}`,
        'blit',
        ...commands,
        'commit',
        'get B 0 16',
      ]);
    expect(last(blit('copy A 4 P 8 12', 'copy P 8 B 0 12', 'fill B 12 4 171'))).toBe(
      `ok ${toHex([2, 3, 4, 0xabababab], 32)}`,
    );
    expect(blit('copy A 2 B 0 4').at(-2)).toMatch(
      /^error 9 MTLCommandBufferErrorDomain: copy: source: bytes 2 to 6 .* not whole words/,
    );
    expect(blit('copy A 0 B 60 8').at(-2)).toMatch(/destination: bytes 60 to 68 of a buffer of 64/);
    expect(blit('copy A 0 A 4 8').at(-2)).toMatch(/overlap/);
    expect(blit('fill B 0 0 1').at(-2)).toMatch(/size is 0/);
  });

  it('replays indirect command buffers, whose buffers must be resident', () => {
    const record = (barrier: string, use: string) =>
      virtualMetal([
        library,
        'pipeline add L add indirect',
        'buffer A 4',
        'buffer B 4',
        'buffer C 4',
        'commands I 4',
        'command I 0 add 1 1 1 1 1 1 - @A @B',
        `command I 1 add 1 1 1 1 1 1 ${barrier} @B @C`,
        'begin concurrent',
        use,
        'indirect I 0 3',
        'commit',
        'get C 0 4',
        `put A 0 ${toHex([7], 32)}`,
        'begin concurrent',
        'use A B C',
        'indirect I 0 4',
        'commit',
        'get C 0 4',
      ]);
    const ordered = record('barrier', 'use A B C');
    expect(ordered.at(-7)).toBe(`ok ${toHex([2], 32)}`);
    expect(last(ordered)).toBe(`ok ${toHex([9], 32)}`);
    expect(record('-', 'use A B C').at(-7)).toBe(`ok ${toHex([1], 32)}`);
    expect(record('barrier', 'use A B').at(-8)).toMatch(
      /^error 3 .*indirect command 1: the buffer at index 1 is not resident/,
    );
  });

  it('takes timestamps around an encoder', () => {
    const answers = virtualMetalOk([
      ...pipelines('affine'),
      'buffer X 4000000',
      'timed',
      `dispatch affine 4000 1 1 250 1 1 @X ${word(3)} ${word(1)} ${word(1000000)}`,
      'commit',
      'times',
    ]);
    const nanoseconds = Number(last(answers));
    expect(nanoseconds).toBeGreaterThan(1e4);
    expect(nanoseconds).toBeLessThan(1e10);
  });

  it('writes archives and reads them, and refuses what is none', () => {
    const file = folder.path('cache.archive');
    expect(virtualMetalOk([library, `archive ${file} L add`, `openarchive ${file}`])).toHaveLength(3);
    const bytes = readFileSync(file);
    writeFileSync(file, bytes.subarray(0, bytes.length / 2));
    expect(last(virtualMetal([`openarchive ${file}`]))).toMatch(/^error 1 MTLBinaryArchiveDomain: .*cut short/);
    writeFileSync(file, 'something else entirely');
    expect(last(virtualMetal([`openarchive ${file}`]))).toMatch(/is not a binary archive/);
    expect(last(virtualMetal([`openarchive ${folder.path('none')}`]))).toMatch(/no such file/);
  });
});

describe.skipIf(virtualMetalMissing !== undefined)('what goes wrong', () => {
  const error = (...commands: string[]): string => last(virtualMetal(commands));

  it('reports accesses out of bounds with kernel, buffer, thread and line', () => {
    const run = (index: number) =>
      error(...pipelines('far'), 'buffer O 116', 'buffer Next 64', `run far 1 1 1 1 1 1 @O ${word(index)}`);
    expect(run(28)).toBe('ok');
    expect(run(29)).toMatch(
      /^error 3 MTLCommandBufferErrorDomain: Caused GPU Address Fault Error: kernel 'far': a write 0 bytes past the end of buffer 'O' \(116 bytes\)/,
    );
    // Beyond the twelve bytes up to the guard page.
    expect(run(32)).toMatch(
      /kernel 'far': access 12 bytes past the end of buffer 'O' of 116 bytes, bound as 'out' \[\[buffer\(0\)\]\], thread \(0, 0, 0\) of threadgroup \(0, 0, 0\), line 13: out\[index\] = 1;/,
    );
    expect(run(0x3fffffff)).toMatch(/^error 3 /);
    expect(run(0xffffffff)).toMatch(/^error 3 /);
  });

  it('says which compiler is missing', () => {
    const [answer] = virtualMetal([`library L ${folder.write(msl('kernel void nobody_compiled_this() {}'))}`], {
      TUTTI_CLANG: '/nowhere/clang',
    });
    expect(answer).toMatch(/^error 3 MTLLibraryErrorDomain: .*\/nowhere\/clang: No such file or directory/);
  });

  it('goes on after a fault', () => {
    const answers = virtualMetal([
      ...pipelines('far'),
      'buffer O 64',
      `run far 1 1 1 1 1 1 @O ${word(99999)}`,
      `run far 1 1 1 1 1 1 @O ${word(3)}`,
      'get O 12 4',
    ]);
    expect(answers.slice(-3)).toEqual([expect.stringMatching(/^error 3/), 'ok', `ok ${toHex([0x3f800000], 32)}`]);
  });

  it('reports vectors at addresses that are not theirs', () => {
    const run = (index: number) =>
      error(...pipelines('vectors'), 'buffer O 64', `run vectors 1 1 1 1 1 1 @O ${word(index)}`);
    expect(run(4)).toBe('ok');
    expect(run(5)).toMatch(
      /^error 3 .*kernel 'vectors': access to a vector of 16 bytes at address 0x\w+4, which is not a multiple of its size.*line 16/,
    );
  });

  it('begins buffers of any size where the widest vectors may', () => {
    for (const bytes of [32, 36, 48, 80, 92]) {
      const groups = Math.floor(bytes / 32);
      expect(error(...pipelines('wide'), `buffer O ${bytes}`, `run wide ${groups} 1 1 1 1 1 @O`)).toBe('ok');
    }
  });

  it('reports threadgroup memory out of bounds, too large, and stacks that overflow', () => {
    const run = (index: number) => error(...pipelines('tile'), 'buffer O 64', `run tile 1 1 1 1 1 1 @O ${word(index)}`);
    expect(run(23)).toBe('ok');
    expect(run(24)).toMatch(
      /^error 3 .*kernel 'tile': access outside of threadgroup variable 0.*line 20: shared_tile\[index\] = 1;/,
    );
    expect(error(library, 'pipeline P L large')).toMatch(
      /threadgroup memory size \(32784\) exceeds the maximum threadgroup memory allowed \(32768\)/,
    );
    expect(error(...pipelines('deep'), 'buffer O 256', 'run deep 1 1 1 64 1 1 @O')).toMatch(
      /^error 3 .*kernel 'deep': stack overflow/,
    );
  });

  it('reports barriers that not all threads reach, and simdgroups that are not whole', () => {
    const run = (kernel: string) => error(...pipelines(kernel), 'buffer O 256', `run ${kernel} 1 1 1 64 1 1 @O`);
    expect(run('divergent')).toMatch(
      /^error 1 .*kernel 'divergent': only 40 of 64 threads reach the threadgroup barrier of line 30, thread \(40, 0, 0\)/,
    );
    expect(run('crossed')).toMatch(/^error 1 .*different threadgroup barriers, of lines \d+ and \d+/);
    expect(run('half_a_simdgroup')).toMatch(/^error 1 .*simdgroup of which not all 32 threads take part.*line 44/);
  });

  it('reports bindings that are missing or misplaced, and threadgroups that are too large', () => {
    const start = [...pipelines('affine', 'add', 'narrow'), 'buffer X 1024'];
    expect(error(...start, 'run add 1 1 1 1 1 1 @X')).toMatch(/^error 9 .*'b' \[\[buffer\(1\)\]\] is not set/);
    expect(error(...start, `run affine 1 1 1 1 1 1 @X @X+4 ${word(0)} ${word(1)}`)).toMatch(
      /^error 9 .*'m' .*constant memory, bound at offset 4, which is not a multiple of 256/,
    );
    expect(error(...start, 'run add 1 1 1 1 1 1 @X+2 @X')).toMatch(/not a multiple of 4/);
    expect(error(...start, 'run add 1 1 1 1 1 1 @X+1024 @X')).toMatch(/offset 1024 is beyond a buffer of 1024 bytes/);
    expect(error(...start, 'run add 1 1 1 1025 1 1 @X @X')).toMatch(/1025 threads in a threadgroup, of at most 1024/);
    expect(error(...start, 'run narrow 1 1 1 65 1 1 @X')).toMatch(/65 threads in a threadgroup, of at most 64/);
    expect(error(...start, 'run add 0 1 1 1 1 1 @X @X')).toMatch(/no threadgroups/);
    expect(error(...start, 'pipeline Q L nothing')).toBe('error no kernel nothing');
  });

  it('has no more memory than its budget', () => {
    const answers = virtualMetal(['buffer A 1000000', 'buffer B 100000', 'free A', 'buffer B 100000'], {
      TUTTI_VIRTUAL_METAL_MEMORY_MB: '1',
    });
    expect(answers).toEqual(['ok', 'error nil', 'ok', 'ok']);
  });

  it('can be taken away, and comes back', () => {
    const run = 'run add 1 1 1 1 1 1 @A @B';
    const answers = virtualMetal([
      ...pipelines('add'),
      'buffer A 4',
      'buffer B 4',
      'set TUTTI_VIRTUAL_METAL_REMOVED 1',
      run,
      'get B 0 4',
      'set TUTTI_VIRTUAL_METAL_REMOVED 0',
      run,
      'get B 0 4',
    ]);
    expect(answers.slice(-5)).toEqual([
      expect.stringMatching(/^error 11 MTLCommandBufferErrorDomain: Device removed/),
      'ok 00000000',
      'ok',
      'ok',
      'ok 01000000',
    ]);
  });
});
