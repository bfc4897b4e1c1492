// Runs npm's http-cache-tests against BASE and prints, by the kind of test, how
// many passed and what did not. Usage: survey.mjs PACKAGE BASE [ID]
import { createRequire } from 'node:module'

const [, , dir, base, only] = process.argv
const fetch = createRequire(dir + '/package.json')('node-fetch')
const { runTests, getResults } = await import(dir + '/client/runner.mjs')
const { default: suites } = await import(dir + '/tests/index.mjs')

if (only) {
  for (const suite of suites) {
    suite.tests = suite.tests.filter(t => t.id === only)
    suite.tests.forEach(t => { t.dump = true })
  }
}
await runTests(suites, fetch, false, base, 40)
const results = getResults()
const out = {}
for (const suite of suites) {
  for (const test of suite.tests) {
    if (!(test.id in results)) continue
    const kind = test.kind || 'required'
    const o = (out[kind] ||= { passed: 0, failed: {} })
    const depends = (test.depends_on || []).filter(id => results[id] !== true)
    if (results[test.id] === true) o.passed++
    else if (depends.length === 0) o.failed[test.id] = results[test.id].join(': ')
    else o.skipped = (o.skipped || 0) + 1
  }
}
console.log(JSON.stringify(out))
