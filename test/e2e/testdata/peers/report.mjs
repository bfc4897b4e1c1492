// What the clients in JavaScript have in common: "ok NAME" or
// "not ok NAME: why" for each thing that they tried.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

export async function check(name, f) {
  let timer;
  try {
    await Promise.race([f(), new Promise((_, reject) => { timer = setTimeout(() => reject(new Error('not within 60 s')), 60000); })]);
    console.log(`ok ${name}`);
  } catch (e) {
    console.log(`not ok ${name}: ${String(e?.message ?? e).replaceAll('\n', ' ')} ${e?.cause?.message ?? ''}`);
  } finally {
    clearTimeout(timer);
  }
}

export function want(got, expected, what = '') {
  if (got !== expected) throw new Error(`${what} ${String(got).slice(0, 200)}, want ${String(expected).slice(0, 200)}`);
}

// stream gives the first n bytes that both ends know.
const whole = readFileSync(`${process.env.STREAM}/3000000`);
export const stream = (n) => whole.subarray(0, n);
export const sum = (b) => createHash('sha256').update(b).digest('hex');
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
