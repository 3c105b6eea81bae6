// What is made of benchmark rows: comparison of ratios, geometric means, charts and the page. Nothing is timed here.
import { describe, expect, it } from 'vitest';
import { compareResults } from '../../bench/compare.js';
import { lightModels } from '../../bench/light.js';
import { normal, uniform } from '../../bench/random.js';
import { exactly, geomeansOf, type Measurement, peerResult, type Results, type Row } from '../../bench/record.js';
import { benchmarkDocs } from '../../bench/report.js';
import { leastTime } from '../../bench/roof.js';
import { escapeXml, ratioChart } from '../../bench/svg.js';
import { timeSubjects } from '../../bench/timing.js';

const measured = (median: number, noise = 0): Measurement => ({
  median,
  q1: median * (1 - noise),
  q3: median * (1 + noise),
  samples: 20,
});

const row = (name: string, ratio: number, noise = 0): Row => {
  const ours = measured(2, noise);
  return { name, unit: 'ms', ours, peers: [peerResult('other', '1.0', measured(2 * ratio, noise), ours)] };
};

const results = (rows: readonly Row[], more: Partial<Results> = {}): Results => ({
  format: 'tutti-bench-1',
  suite: 'gemm',
  quick: false,
  device: { id: 'cpu', backend: 'cpu', name: 'a CPU', driver: 'cc' },
  date: '2026-01-02T03:04:05.000Z',
  node: 'v20.0.0',
  cpu: 'a CPU',
  cores: 2,
  kernel: '6',
  loadAverage: 0,
  geomeans: geomeansOf(rows),
  rows,
  ...more,
});

describe('comparison', () => {
  const compare = (before: readonly Row[], after: readonly Row[]) =>
    compareResults([results(before)], [results(after)], 0.1);

  it('fails on a ratio that has got worse, not on a time', () => {
    const [slowDay] = [row('a', 1.5)].map((one): Row => {
      if ('error' in one) throw new Error(one.error);
      const ours = measured(20);
      return { ...one, ours, peers: [peerResult('other', '1.0', measured(30), ours)] };
    });
    expect(compare([row('a', 1.5)], [slowDay])).toMatchObject({ compared: 1, worse: [], better: [], lost: [] });
    const { worse } = compare([row('a', 1.5), row('b', 1)], [row('a', 1.2), row('b', 0.95)]);
    expect(worse).toEqual([{ what: 'gemm-cpu: a, other', before: 1.5, after: 1.2 }]);
    expect(compare([row('a', 1)], [row('a', 2)]).better).toHaveLength(1);
  });

  it('allows for the spread of the measurements', () => {
    expect(compare([row('a', 1, 0.2)], [row('a', 0.7, 0.2)]).worse).toEqual([]);
    expect(compare([row('a', 1, 0.2)], [row('a', 0.3, 0.2)]).worse).toHaveLength(1);
  });

  it('calls a row lost that fails now, but not a suite that did not run', () => {
    const before = [results([row('a', 1)]), results([row('a', 1)], { suite: 'conv' })];
    const { lost, compared } = compareResults(before, [results([{ name: 'a', error: 'E_KERNEL' }])], 0.1);
    expect(lost).toEqual(['gemm-cpu: a, other']);
    expect(compared).toBe(0);
  });

  it('takes a NaN for worse', () => {
    expect(compare([row('a', 1)], [row('a', Number.NaN)]).worse).toHaveLength(1);
  });
});

describe('figures', () => {
  it('means are geometric, by peer, of the rows that have one', () => {
    const rows: Row[] = [row('a', 4), row('b', 0.25), { name: 'c', error: 'no' }, row('d', 8)];
    expect(geomeansOf(rows)).toEqual([{ peer: 'other', ratio: expect.closeTo(2, 10), rows: 3 }]);
  });

  it('the roof is the slower of arithmetic and memory', () => {
    const roof = { source: 'program', copyGBs: 10, gflops: { f32: 100, bf16: 1000 } } as const;
    expect(leastTime(roof, { flops: 1e9, bytes: 1e6 }, 'f32')).toEqual({ ms: 10, limit: 'arithmetic' });
    expect(leastTime(roof, { flops: 1e9, bytes: 1e6 }, 'bf16')).toEqual({ ms: 1, limit: 'arithmetic' });
    expect(leastTime(roof, { flops: 1e6, bytes: 1e8 }, 'f32')).toEqual({ ms: 10, limit: 'memory' });
  });

  it('random data is normal and the same everywhere', () => {
    const values = normal(10_001, 3);
    expect(values).toHaveLength(10_001);
    expect(values).toEqual(normal(10_001, 3));
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.05);
    expect(variance).toBeGreaterThan(0.95);
    expect(variance).toBeLessThan(1.05);
    // The recipe of the light models' weights rests on this generator.
    const next = uniform(1);
    expect([next(), next()]).toEqual([0.6270739405881613, 0.002735721180215478]);
    expect(lightModels).toHaveLength(7);
  });

  it('subjects are timed in turns, those that time themselves by their own clock', async () => {
    const order: string[] = [];
    const timings = await timeSubjects(
      [
        { name: 'a', run: async () => void order.push('a') },
        {
          name: 'b',
          run: async () => {},
          block: async (count) => {
            order.push('b');
            return new Array<number>(count).fill(125);
          },
        },
      ],
      { warmup: 1, iterations: 4, duration: 1 },
    );
    expect(timings[0].samples).toBeGreaterThanOrEqual(4);
    expect(timings[1]).toMatchObject({ medianMs: 125, q1Ms: 125, q3Ms: 125 });
    // A B B A: the second round begins with whom the first ended.
    const turns = order.filter((name, i) => i === 0 || name !== order[i - 1] || name === 'b');
    expect(turns.slice(0, 6).join('')).toBe('ababba');
  });
});

describe('page and charts', () => {
  it('shows losses, failures and what could not be measured', () => {
    const rows: Row[] = [
      row('fast', 2),
      row('slow', 0.5),
      { name: 'broken', error: 'E_SHAPE: no' },
      { name: 'alone', unit: 'ms', ours: exactly(3), peers: [{ name: 'other', skipped: 'not installed' }] },
    ];
    const docs = new Map(benchmarkDocs([results(rows), results(rows, { quick: true, suite: 'conv' })]));
    expect([...docs.keys()]).toEqual(['benchmarks.md', 'benchmarks/gemm-cpu.svg']);
    const page = docs.get('benchmarks.md') ?? '';
    expect(page).toContain('**0.50**');
    expect(page).toContain('| 1 of 2 | 0.50 | 2.00 |');
    expect(page).toContain('we fail: E_SHAPE: no (broken)');
    expect(page).toContain('other: not installed (alone)');
    const chart = docs.get('benchmarks/gemm-cpu.svg') ?? '';
    expect(chart.match(/class="better"/g)).toHaveLength(1);
    expect(chart.match(/class="worse"/g)).toHaveLength(1);
    expect(chart.indexOf('>fast<')).toBeLessThan(chart.indexOf('>slow<'));
  });

  it('draws twice and half equally long', () => {
    const bars = [2, 0.5].map((ratio) => ({ label: `${ratio}`, ratio, others: [], note: '' }));
    const chart = ratioChart({ title: 'a < b', caption: '', peers: ['p'], bars });
    const widths = [...chart.matchAll(/<rect[^>]* width="([\d.]+)"/g)].map(([, width]) => Number(width));
    expect(widths).toHaveLength(2);
    expect(widths[0]).toBeCloseTo(widths[1], 0);
    expect(chart).toContain('a &lt; b');
    expect(escapeXml('<a & "b">')).toBe('&lt;a &amp; &quot;b&quot;&gt;');
  });
});
