import { assertEquals, assertThrows } from "@std/assert";
import { compileTemplate, strftime, TemplateException } from "../../src/jinja.ts";

// What Python's Jinja2 3.1.6 makes of the same sources.
const RENDERED: readonly [source: string, text: string][] = [
  ["{{ '\n\n  x \n'.strip('\n') }}|", "  x |"],
  ["{{ '\n\n  x \n'.lstrip('\n') }}|", "  x \n|"],
  ["{{ '\n\n  x \n'.rstrip('\n') }}|", "\n\n  x |"],
  ["{{ '\n  x \n'.strip() }}|{{ ' x '.lstrip() }}|{{ ' x '.rstrip() }}|", "x|x | x|"],
  ["{{ ' x '.strip(none) }}|", "x|"],
  ["{{ 'a</s>b</s>'.split('</s>')[-2].lstrip('a').rstrip('xb') }}|", "|"],
  ["{{ '🙂x🙃'.strip('🙂') }}|", "x🙃|"],
  ["{% set x = {'strip': [1]} %}{{ x.strip[0] }}", "1"],
  ["{% macro m(x) %}{{ x.strip('-') }}{% endmacro %}{{ m('-a-') }}", "a"],
  ["{{ range(3) | list | tojson }}{{ range(1, 4) | list | tojson }}", "[0, 1, 2][1, 2, 3]"],
  ["{{ range(5, 0, -2) | list | tojson }}{{ range(2, 2) | list | tojson }}", "[5, 3, 1][]"],
  [
    "{{ {'k': 'é<\"', 'n': [1, none, true]} | tojson }}",
    '{"k": "é<\\"", "n": [1, null, true]}',
  ],
  ["{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"],
  ["  {% if true %}\nx\n  {% endif %}\ny\n", "x\ny"],
];

Deno.test("a template renders as Python's Jinja renders it for transformers", () => {
  for (const [source, text] of RENDERED) assertEquals(compileTemplate(source)({}), text, source);
});

Deno.test("a template's exception is told from a failure", () => {
  const raise = compileTemplate("{{ raise_exception('no ' + what) }}");
  assertThrows(() => raise({ what: "way" }), TemplateException, "no way");
  const fail = assertThrows(() => compileTemplate("{{ missing.field.deeper() }}")({}), Error);
  assertEquals(fail instanceof TemplateException, false);
  assertThrows(() => compileTemplate("{% if %}"), Error);
});

Deno.test("a template's own names cannot be replaced by variables", () => {
  const render = compileTemplate("{{ ' x '.strip(' ') }}{{ range(1)[0] }}");
  assertEquals(render({ "str.strip": "mine", range: () => [9] }), "x0");
});

Deno.test("strftime() speaks English, whatever the machine speaks", () => {
  const date = new Date(2026, 2, 5, 14, 7, 9);
  assertEquals(strftime(date, "%d %b %Y"), "05 Mar 2026");
  assertEquals(
    strftime(date, "%A %B %a %y-%m %H:%M:%S %I %p 100%% %Q"),
    "Thursday March Thu 26-03 14:07:09 02 PM 100% %Q",
  );
  const today = compileTemplate("{{ strftime_now('%Y') }}")({});
  assertEquals(Math.abs(Number(today) - new Date().getFullYear()) <= 1, true);
});
