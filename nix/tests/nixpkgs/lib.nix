# The functions of nixpkgs' lib that firn's modules use, and a module system of a few dozen lines: options with types and
# defaults, imports, mkIf, mkMerge, mkDefault, mkForce, submodules. It is strict where NixOS is: an option that nobody declares, a value of
# another type, and an option without a value are errors.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatLists
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    hasAttr
    head
    isAttrs
    isBool
    isFunction
    isInt
    isList
    isString
    length
    listToAttrs
    mapAttrs
    replaceStrings
    stringLength
    substring
    toJSON
    ;

  lists = {
    inherit any all concatLists;
    last = list: elemAt list (length list - 1);
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    unique = foldl' (found: value: if elem value found then found else found ++ [ value ]) [ ];
  };

  attributes = rec {
    nameValuePair = name: value: { inherit name value; };
    genAttrs = names: make: listToAttrs (map (name: nameValuePair name (make name)) names);
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    filterAttrs =
      keep: set: listToAttrs (concatLists (mapAttrsToList (name: value: if keep name value then [ (nameValuePair name value) ] else [ ]) set));
    optionalAttrs = condition: set: if condition then set else { };
    recursiveUpdate =
      left: right:
      left
      // mapAttrs (
        name: value:
        if isAttrs value && isAttrs (left.${name} or null) then recursiveUpdate left.${name} value else value
      ) right;
  };

  strings = rec {
    inherit concatStringsSep;
    optionalString = condition: text: if condition then text else "";
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    splitString = separator: text: filter isString (builtins.split (escapeRegex separator) text);
    escapeRegex = replaceStrings [ "." "[" "]" ] [ "\\." "\\[" "\\]" ];
    escapeShellArg = value: "'${replaceStrings [ "'" ] [ "'\\''" ] (toString value)}'";
    escapeShellArgs = values: concatStringsSep " " (map escapeShellArg values);
    toInt = text: let value = builtins.fromJSON text; in if isInt value then value else throw "${text} is no number";
    # JSON's texts, numbers, truth values and lists are TOML's too.
    toTOML =
      tables:
      concatStringsSep "\n" (
        attributes.mapAttrsToList (
          table: values:
          "[${table}]\n"
          + concatStringsSep "" (attributes.mapAttrsToList (name: value: "${name} = ${toJSON value}\n") values)
        ) tables
      );
  };

  typed = name: check: {
    inherit name check;
    # What several modules say has to be the same.
    merge =
      where: values:
      let
        different = lists.unique values;
      in
      if length different == 1 then head different else throw "${where} is set to different values";
  };

  types = rec {
    bool = typed "bool" isBool;
    int = typed "int" isInt;
    str = typed "str" isString;
    anything = typed "anything" (_: true) // {
      merge = where: values: if all isAttrs values then foldl' attributes.recursiveUpdate { } values else (typed "" null).merge where values;
    };
    attrs = anything // {
      name = "attrs";
      check = isAttrs;
    };
    package = typed "package" (value: isAttrs value && value.type or null == "derivation");
    nullOr = type: type // {
      name = "null or ${type.name}";
      check = value: value == null || type.check value;
      merge = where: values: if all (value: value == null) values then null else type.merge where (filter (value: value != null) values);
    };
    listOf = type: {
      name = "list of ${type.name}";
      check = value: isList value && all type.check value;
      merge = where: values: concatLists values;
    };
    attrsOf = type: {
      name = "attribute set of ${type.name}";
      check = isAttrs;
      merge =
        where: values:
        attributes.genAttrs (lists.unique (concatLists (map attrNames values))) (
          name: mergeChecked type "${where}.${name}" (concatLists (map (set: lists.optional (hasAttr name set) set.${name}) values))
        );
    };
    submodule = module: {
      name = "submodule";
      check = isAttrs;
      merge = where: values: evaluate where [ module ] values { };
    };
  };

  # Settles conditions and priorities of one option's definitions, checks and merges them.
  mergeChecked =
    type: where: definitions:
    let
      settled = concatLists (map settle definitions);
      best = foldl' (least: one: if one.priority < least then one.priority else least) 1000000 settled;
      values = map (one: one.value) (filter (one: one.priority == best) settled);
    in
    if !all type.check values then throw "${where} is no ${type.name}: ${toJSON values}" else type.merge where values;

  settle =
    definition:
    let
      kind = definition._type or null;
    in
    if kind == "if" then
      (if definition.condition then settle definition.content else [ ])
    else if kind == "merge" then
      concatLists (map settle definition.contents)
    else if kind == "override" then
      map (one: one // { inherit (definition) priority; }) (settle definition.content)
    else
      [
        {
          priority = 100;
          value = definition;
        }
      ];

  # Pushes conditions down to the attributes, so that asking for one option does not ask for the condition of another.
  spread =
    config:
    let
      kind = config._type or null;
    in
    if kind == "if" then
      map (mapAttrs (_: content: { _type = "if"; inherit (config) condition; inherit content; })) (spread config.content)
    else if kind == "merge" then
      concatLists (map spread config.contents)
    else
      [ config ];

  evaluate =
    where: modules: configs: arguments:
    let
      load =
        module:
        let
          loaded = if builtins.isPath module || isString module then import module else module;
          called = if isFunction loaded then loaded (arguments // { inherit config; }) else loaded;
          plain = called // {
            imports = [ ];
          };
          hasSections = called ? options || called ? config;
        in
        concatLists (map load (called.imports or [ ]))
        ++ [
          {
            options = called.options or { };
            config = if hasSections then called.config or { } else removeAttrs plain [ "imports" ];
          }
        ];
      loaded = concatLists (map load modules);
      options = foldl' attributes.recursiveUpdate { } (map (module: module.options) loaded);
      config = walk where options (concatLists (map (module: spread module.config) loaded) ++ concatLists (map spread configs));
    in
    config;

  walk =
    where: options: definitions:
    let
      named = lists.unique (concatLists (map attrNames definitions));
      unknown = filter (name: !(hasAttr name options)) named;
      below =
        name:
        let
          path = if where == "" then name else "${where}.${name}";
          option = options.${name};
          found = concatLists (map (set: lists.optional (hasAttr name set) set.${name}) definitions);
        in
        if option._type or null == "option" then
          (
            let
              settled = concatLists (map settle found);
            in
            if settled != [ ] then
              mergeChecked option.type path found
            else if option ? default then
              mergeChecked option.type path [ option.default ]
            else
              throw "${path} has no value"
          )
        else
          walk path option (concatLists (map spread found));
    in
    if unknown != [ ] then throw "there is no option ${where}.${head unknown}" else mapAttrs (name: _: below name) options;

  modules = {
    mkOption = option: option // { _type = "option"; };
    mkEnableOption = what: modules.mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${what}.";
    };
    mkIf = condition: content: {
      _type = "if";
      inherit condition content;
    };
    mkMerge = contents: {
      _type = "merge";
      inherit contents;
    };
    mkOverride = priority: content: {
      _type = "override";
      inherit priority content;
    };
    mkDefault = modules.mkOverride 1000;
    mkForce = modules.mkOverride 50;
    literalExpression = text: text;
    evalModules = { modules, specialArgs }: { config = evaluate "" modules [ ] specialArgs; };
    inherit types;
  };
in
lists // attributes // strings // modules
