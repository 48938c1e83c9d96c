// Decodes BPG files with libbpg's JavaScript decoder.
//
//   node decode_bpg.js DECODER.js FILE.bpg...
//
// Writes FILE.bpg.rgba beside each (height × width × 4 bytes) and prints one JSON line a file: its width and height,
// or the error.
"use strict";

const fs = require("fs");

const source = fs.readFileSync(process.argv[2], "utf8");
const module_ = {};
new Function("module", source)(module_);
const Decoder = module_.exports;

for (const path of process.argv.slice(3)) {
  const data = fs.readFileSync(path);
  const context = {
    createImageData: (width, height) => ({ width, height, data: new Uint8ClampedArray(4 * width * height) }),
  };
  const decoder = new Decoder(context);
  try {
    decoder._onload({ response: new Uint8Array(data) }, {});
    const picture = decoder.imageData;
    fs.writeFileSync(`${path}.rgba`, picture.data);
    console.log(JSON.stringify({ width: picture.width, height: picture.height }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
