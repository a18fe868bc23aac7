#!/bin/sh
# Bundles CodeMirror for the dashboard: npm brings the locked versions, esbuild writes one file.
# The bundle and its licences are committed, so that nothing else of drmad needs npm.
set -eu
cd "$(dirname "$0")"
vendor=../../service/drmad_service/dashboard/static/vendor
npm ci --no-audit --no-fund --ignore-scripts
node node_modules/esbuild/install.js
versions=$(node -p 'Object.entries(require("./package.json").dependencies).map((each) => each.join(" ")).join(", ")')
node_modules/.bin/esbuild codemirror.js --bundle --minify --format=esm --target=es2022 --legal-comments=none \
  --banner:js="// CodeMirror 6 and its parts, MIT: see LICENSE-codemirror. Built by deploy/editor/build.sh from $versions" \
  --outfile="$vendor/codemirror.min.js"
{
  echo "The file codemirror.min.js holds these packages, each under its own notice."
  for package in $(npm ls --omit=dev --all --parseable | sed -n 's|^.*/node_modules/||p' | sort -u); do
    printf '\n%s %s\n\n' "$package" "$(node -p "require('./node_modules/$package/package.json').version")"
    cat "node_modules/$package/LICENSE"
  done
} > "$vendor/LICENSE-codemirror"
