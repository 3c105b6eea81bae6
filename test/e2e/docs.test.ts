// What is generated is up to date.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { repository } from '../support/data.js';

describe('docs', () => {
  it('the support matrix is that of the operator table and the committed results: npm run docs', () => {
    const check = () => execFileSync(process.execPath, [join(repository, 'dist', 'scripts', 'docs.js'), '--check']);
    expect(check).not.toThrow();
  });
});
