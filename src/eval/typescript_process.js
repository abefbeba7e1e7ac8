/**
 * The TypeScript parser, in a process of its own (see typescript.ts): one JSON request a line in, one JSON answer a line out.
 *
 * Not an import of ours: beside TypeScript, Deno's resolver gives it to every package that has it as an optional peer, and
 * then the server's start would download it too.
 */
const specifier = "npm:typescript@6.0.3"; // not a literal, for the same reason
const { default: ts } = await import(specifier);

const compilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.CommonJS,
  esModuleInterop: true,
};

/** The source up to the end of the first top-level function (or variable) called `name`; all of it where there is none. */
function cutAfter(source, name) {
  const file = ts.createSourceFile("output.ts", source, ts.ScriptTarget.ES2022, false);
  const statement = file.statements.find((statement) =>
    ts.isFunctionDeclaration(statement)
      ? statement.name?.text === name && statement.body !== undefined
      : ts.isVariableStatement(statement) &&
        statement.declarationList.declarations.some((declaration) =>
          ts.isIdentifier(declaration.name) && declaration.name.text === name
        )
  );
  return statement === undefined ? source : source.slice(0, statement.end);
}

/** JavaScript without the types, which are not checked; or the first syntax error. */
function toScript(source) {
  const { outputText, diagnostics = [] } = ts.transpileModule(source, {
    compilerOptions,
    reportDiagnostics: true,
    fileName: "output.ts",
  });
  if (diagnostics.length === 0) return { code: outputText };
  return { error: ts.flattenDiagnosticMessageText(diagnostics[0].messageText, " ") };
}

function answer({ source, name, tests }) {
  const cut = name === undefined ? source : cutAfter(source, name);
  const alone = toScript(cut); // tests must not complete what is not complete
  return "error" in alone ? alone : toScript(`${cut}\n${tests}\n`);
}

let rest = "";
for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + chunk).split("\n");
  rest = lines.pop() ?? "";
  for (const line of lines) console.log(JSON.stringify(answer(JSON.parse(line))));
}
