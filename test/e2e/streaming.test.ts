// A speech detector that keeps its state on the device, chunk by chunk: as fast as the sound comes, without allocating.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { devices, Session, Tensor } from '../../index.js';
import { modelsData } from '../support/data.js';

/** Samples of 32 ms at 16 kHz. */
const samples = 512;
const chunkMs = 32;
const { devices: present } = await devices({ backends: ['cpu'] });

describe.skipIf(modelsData.missing || present.length === 0)('streaming', () => {
  it('silero-vad-v5 with a bound state is what it is with one that goes through the host', {
    timeout: 120_000,
  }, async () => {
    const path = join(modelsData.path, 'silero-vad-v5', 'model.onnx');
    await using session = await Session.create(path, { device: 'cpu' });
    const chunk = (i: number): Float32Array =>
      Float32Array.from({ length: samples }, (_, k) => Math.sin((i * samples + k) / (3 + (i % 7))) / 2);
    const dims = [1, samples];
    const sr = new Tensor('int64', [16000n], []);
    const state = await session.tensor('float32', [2, 1, 128]);
    const stream = await session.bind({
      inputs: { input: Tensor.from(chunk(0), dims), state, sr },
      outputs: { output: 'cpu', stateN: state },
    });
    let host: Tensor = new Tensor('float32', new Float32Array(256), [2, 1, 128]);
    for (let i = 0; i < 20; i++) {
      await stream.write('input', chunk(i));
      const { output } = await stream.run();
      const expected = await session.run({ input: Tensor.from(chunk(i), dims), state: host, sr });
      host = expected.stateN;
      expect(output.data).toEqual(expected.output.data);
    }
    const before = { bytes: session.memory.deviceBytes, stages: session.report().stages };
    const chunks = 200;
    const start = performance.now();
    for (let i = 0; i < chunks; i++) {
      await stream.write('input', chunk(i));
      await stream.run();
    }
    expect((performance.now() - start) / chunks).toBeLessThan(chunkMs);
    expect(session.memory.deviceBytes).toBe(before.bytes);
    expect(session.report().stages).toEqual({ ...before.stages, run: before.stages.run + chunks });
    stream.dispose();
    state.dispose();
  });
});
