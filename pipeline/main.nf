#!/usr/bin/env nextflow

// From request to results: dispatch the jobs, analyse each, collect what they returned. See docs/pipeline.md.

params.input_files = null
params.analysis = null
params.set = null
params.jobs_per_task = 1
params.max_failures = null
params.output_directory = 'results'

// Dispatches again in every run: a cached step would never ask the database again.
process DISPATCH {
    cache false
    debug true
    maxRetries 2
    errorStrategy { tryAgain(task) }

    input:
    path input_files, stageAs: 'input'
    path named_files, stageAs: 'named?/*'
    val flags
    val report

    output:
    path 'jobs/*/*.json', optional: true, emit: jobs
    path 'report/*', optional: true, emit: report
    path 'catalog/*', optional: true, emit: catalog

    script:
    def named = named_files instanceof List ? named_files : [named_files]
    def own = ['--input_directory=input', '--output_directory=jobs', '--overwrite=1', '--query_in_jobs=0']
    def all = own + (report ? ['--report_directory=report'] : []) + flags.collect { flag ->
        quoted("--${flag.name}=") + flag.parts.collect { part ->
            (part.path == null ? '' : realPath(named[part.number])) + quoted(part.rest)
        }.join(',')
    }
    """
    mkdir -p input catalog
    job-dispatch ${all.join(' ')}
    """
}

// One job per task. What decides whether it runs again is the content of its files, wherever they are.
process ANALYSE {
    tag { job.baseName }
    cache 'deep'
    publishDir params.output_directory, pattern: 'analysis_results/*', mode: 'copy', overwrite: true
    maxRetries 2
    errorStrategy { tolerated(task, [job]) }

    input:
    path job, stageAs: 'jobs/*'
    path code, stageAs: 'code?/*'
    val places
    val settings

    output:
    path 'analysis_results/*', type: 'dir', emit: results

    script:
    """
    ${copied(code, places)}
    job-dispatch run ${quoted(places[0])} jobs --workers=1 --attempt=${task.attempt} ${settingFlags(settings)}
    """
}

// Several jobs per task. Whatever happens to one of them, those that are done count, and the rest run alone.
process ANALYSE_GROUP {
    tag { jobs instanceof List ? "${jobs.size()} jobs" : '1 job' }
    cache 'deep'
    publishDir params.output_directory, pattern: 'analysis_results/*', mode: 'copy', overwrite: true
    maxRetries 2
    errorStrategy { tolerated(task, jobs instanceof List ? jobs : [jobs]) }

    input:
    path jobs, stageAs: 'jobs/*'
    path code, stageAs: 'code?/*'
    val places
    val settings

    output:
    path 'analysis_results/*', type: 'dir', optional: true, emit: results
    path 'left/*', optional: true, emit: left

    script:
    """
    ${copied(code, places)}
    status=0
    job-dispatch run ${quoted(places[0])} jobs --workers=${task.cpus} --attempt=${task.attempt} ${settingFlags(settings)} || status=\$?
    [ \$status -ne 2 ] || exit 2
    mkdir left
    for job in jobs/*.json; do
        name=\${job#jobs/}
        name=\${name%.json}
        if [ ! -e "analysis_results/\$name/job.json" ]; then
            rm -rf "analysis_results/\$name"
            cp "\$job" left/
        fi
    done
    """
}

process COLLECT {
    cache false
    publishDir params.output_directory, pattern: '{analysis_results/table.csv,report/*}', mode: 'copy', overwrite: true, saveAs: { name -> file(name).name }
    // The page has links to the folders of jobs and to the table.
    publishDir params.output_directory, pattern: 'analysis_results/*', mode: 'copy', overwrite: true

    input:
    path results, stageAs: 'analysis_results/*'
    path report, stageAs: 'report/*'

    output:
    path 'analysis_results/table.csv', emit: table
    path 'analysis_results/results.html', optional: true
    path 'report/*', includeInputs: true

    script:
    """
    mkdir -p analysis_results
    cp report/jobs.csv .
    if [ \$(wc -l < jobs.csv) -le 1 ]; then
        echo job > analysis_results/table.csv
    else
        ${settled('job-dispatch collect .')}
    fi
    """
}

// The analysis file's function `summarise`.
process SUMMARISE {
    cache 'deep'
    publishDir params.output_directory, mode: 'copy', overwrite: true
    maxRetries 2
    errorStrategy { tolerated(task, []) }

    input:
    path results, stageAs: 'analysis_results/*'
    path code, stageAs: 'code?/*'
    val places

    output:
    path 'analysis_summary'

    script:
    """
    ${copied(code, places)}
    ${settled("job-dispatch collect . --summarise ${quoted(places[0])}")}
    """
}

workflow {
    refuse(mistakes())
    def flags = dispatcherFlags()
    def named = flags.collectMany { flag -> flag.parts.findAll { part -> part.path != null }.collect { part -> part.path } }
    def code = Code.files(file(params.analysis, glob: false))
    def files = code.collect { one -> one.path }
    def places = code.collect { one -> one.place }
    DISPATCH(params.input_files ? file(params.input_files, glob: false) : [], named, flags, !isOnlyLookedAt())

    def jobs = DISPATCH.out.jobs.flatMap { found -> known(found instanceof List ? found : [found]) }
    def together = params.jobs_per_task.toString().toInteger()
    def alone = jobs
    def results = channel.empty()
    if (together > 1) {
        ANALYSE_GROUP(jobs.toSortedList { job -> job.name }.flatMap { sorted -> cut(sorted, together, 0) },
            files, places, settings())
        alone = ANALYSE_GROUP.out.left.flatten()
        results = ANALYSE_GROUP.out.results.flatten()
    }
    ANALYSE(alone, files, places, settings())
    results = results.mix(ANALYSE.out.results.flatten())
    results.subscribe { folder -> Run.done << folder.name }
    def all = results.toSortedList { folder -> folder.name }
    def reported = DISPATCH.out.report.map { report -> [report] }
    def ready = all.map { folders -> [folders] }.combine(reported)
    COLLECT(ready.map { both -> both[0] + Run.folders.values() }, ready.map { both -> both[1] })
    SUMMARISE(all.filter { folders -> folders && Code.hasSummary(files[0]) }, files, places)
    DISPATCH.out.catalog.subscribe { catalog -> catalog.copyTo(savedCatalog()) }
    COLLECT.out.table.subscribe { table -> Run.collected = true }
    SUMMARISE.out.subscribe { summary -> Run.summarised = true }

    workflow.onComplete = {
        if (Run.collected) {
            def output = file(params.output_directory, glob: false)
            removeEarlier(output)
            Run.folders.each { name, folder -> folder.copyTo(output.resolve("analysis_results/${name}")) }
            file(workflow.session.config.trace.file).copyTo(output.resolve('resources.tsv'))
        }
        tellFailures(workflow.success)
    }
}

// ---- what is asked for

// Such a run has no jobs and no report, so that nothing in the output folder is taken for that of an earlier request.
def isOnlyLookedAt() {
    return ['dry_run', 'describe'].any { name -> "${params.containsKey(name) ? params[name] : ''}".trim().toLowerCase() in ['true', '1'] }
}

// What the pipeline itself decides about the dispatcher.
def ownFlags() {
    return ['input_directory', 'output_directory', 'report_directory', 'overwrite', 'query_in_jobs']
}

// Where the selected records are kept; the dispatcher writes them into its task.
def savedCatalog() {
    return params.containsKey('save_catalog') && params.save_catalog ? file(params.save_catalog.toString(), glob: false) : null
}

def mistakes() {
    def found = []
    def reserved = params.keySet().findAll { name -> name in ownFlags() && name != 'output_directory' }
    reserved.each { name -> found << "--${name} is set by the pipeline itself; leave it out" }
    if (!params.analysis || !file(params.analysis, glob: false).isFile()) {
        found << "--analysis: ${params.analysis ? "no such file: ${params.analysis}" : 'missing'}; give the Python file with the function analyse"
    }
    if (params.input_files && !file(params.input_files, glob: false).isDirectory()) {
        found << "--input_files: no such folder: ${params.input_files}"
    }
    if (savedCatalog()?.exists()) {
        found << "--save_catalog: ${savedCatalog()} exists; give the name of a new file"
    }
    if (!(params.jobs_per_task.toString() ==~ /[1-9][0-9]{0,5}/)) {
        found << "--jobs_per_task: '${params.jobs_per_task}' is not a whole number from 1"
    }
    if (!((params.max_failures ?: 0).toString() ==~ /[0-9]{1,7}|[0-9]{1,2}(\.[0-9]+)?%|100%/)) {
        found << "--max_failures: '${params.max_failures}' is neither a number of jobs nor a share of them, such as 20%"
    }
    settings().findAll { pair -> !(pair ==~ /(?s)\s*[^=\s][^=]*=.*/) }.each { pair ->
        found << "--set: '${pair}' is not name=value"
    }
    settings().findAll { pair -> pair ==~ /(?s)[^=]*=\s*"[^"]*/ }.each { pair ->
        found << "--set: '${pair}' has an open quote; give a text that holds a semicolon with -params-file, as set: {name: text}"
    }
    placeholders(workflow.session.config.findAll { name, value -> name in ['process', 'workDir', 'aws', 'k8s'] }).each { name, value ->
        found << "${name}: '${value}' is to be filled in; set it in a file that you add with -c (see docs/pipeline.md)"
    }
    return found
}

// What stands in capitals in nextflow.config, as far as the chosen profiles use it.
def placeholders(Map config) {
    return config.collectEntries { name, value ->
        if (value instanceof Map) {
            return placeholders(value).collectEntries { below, found -> ["${name}.${below}".toString(), found] }
        }
        value.toString() =~ /^(PARTITION|QUEUE|REGION|NAMESPACE|CLAIM)$|BUCKET\/|^\/PATH\/TO\/|registry\.example\// ? [(name): value] : [:]
    }
}

def refuse(List found) {
    if (found) {
        exit 1, found.join('\n')
    }
}

// Every flag of the dispatcher that is set, in parts: a path that is staged, by its number, and the text behind it.
def dispatcherFlags() {
    def own = ['input_files', 'analysis', 'set', 'jobs_per_task', 'max_failures', 'output_directory', 'jobs-per-task']
    def staged = []
    return params.findAll { name, value -> !(name in own) && value != null && value != '' }.collect { name, value ->
        def parts = name == 'save_catalog' ? [[rest: "catalog/${savedCatalog().name}"]] : partsOf(name, value)
        parts.findAll { part -> part.path != null }.each { part ->
            part.number = staged.size()
            staged << part.path
        }
        [name: name, parts: parts]
    }
}

def partsOf(String name, value) {
    def text = value instanceof Number ? asTyped(name, value) : asText(value)
    def isQuery = text.trim().startsWith('{') || text.trim().startsWith('[')
    if (!(name in ['analysis_parameters', 'docdb_query', 'exclude', 'metadata_catalog', 'parameter_schema', 'use_data_asset_csv']) || isQuery) {
        return [[rest: text]]
    }
    return (name == 'exclude' ? text.split(',').toList() : [text]).collect { one -> place(name, one.trim()) }
}

// Nextflow reads what looks like a number as a number; the command line has it as it was typed.
def asTyped(String name, Number value) {
    def typed = (workflow.commandLine =~ /(?<=\s)--${java.util.regex.Pattern.quote(name)}[=\s](\S+)/).collect { found -> found[1] }
    return typed.reverse().find { text -> text.isNumber() && text.toBigDecimal() == value } ?: value.toString()
}

def asText(value) {
    if (value instanceof Boolean) {
        return value ? '1' : '0'
    }
    if (value instanceof List) {
        return groovy.json.JsonOutput.toJson(value.collect { one -> one instanceof Number ? one.toString() : one })
    }
    return value instanceof Map ? groovy.json.JsonOutput.toJson(value) : value.toString()
}

// The file or folder that a flag names, counted from the folder in which Nextflow is started; a catalog may be among the
// input files. Of a pattern it is the folder before the first wildcard. None: the dispatcher finds it, or says what is wrong.
def place(String name, String text) {
    def whole = text.replaceFirst('^~(?=/|$)', System.getProperty('user.home'))
    if (name != 'metadata_catalog') {
        def path = file(whole, glob: false)
        return path.isFile() || name == 'exclude' && path.isDirectory() ? [path: path, rest: ''] : [rest: text]
    }
    def fixed = whole.replaceFirst('(^|/)[^/]*[*?\\[].*$', '')
    def starts = fixed ? [fixed] + (params.input_files ? ["${params.input_files}/${fixed}".toString()] : []) : ['.']
    def path = whole.contains('://') ? null : starts.collect { one -> file(one, glob: false).toAbsolutePath().normalize() }.find { one -> one.exists() }
    return path == null ? [rest: text] : [path: path, rest: fixed ? whole.substring(fixed.length()) : "/${whole}".toString()]
}

// `--set` holds one name=value or several, each behind a semicolon; in a file of parameters also a list or an object.
def settings() {
    def given = params.set
    if (given == null || given == '') {
        return []
    }
    if (given instanceof Map) {
        return given.collect { name, value -> "${name}=${groovy.json.JsonOutput.toJson(value)}".toString() }
    }
    return given instanceof List ? given.collect { pair -> pair.toString() } : given.toString().split(/;(?=\s*[\p{L}_][\p{L}\w.-]*\s*=(?!=))/).collect { pair -> pair.trim() }
}

def settingFlags(List pairs) {
    return pairs ? "--set ${pairs.collect { pair -> quoted(pair) }.join(' ')}" : ''
}

// ---- words for the shell

// Line ends are spelled out, since Nextflow takes what a script's lines have in common for its indentation.
def quoted(text) {
    def whole = text.toString().replace("'", "'\\''").replace('\n', "'\$'\\n''").replace('\r', "'\$'\\r''")
    return "'${whole}'"
}

// The files of the analysis, laid out as they are beside each other.
def copied(code, List places) {
    def files = code instanceof List ? code : [code]
    return [files, places].transpose().collect { file, place ->
        "mkdir -p ${quoted(place.contains('/') ? place[0..<place.lastIndexOf('/')] : '.')} && cp -L ${quoted(file)} ${quoted(place)}"
    }.join('\n    ')
}

// Such a command tells by 3 and 4 that jobs are left or failed, which is no failure of its own.
def settled(String command) {
    return "${command} || { status=\$?; [ \$status -eq 3 ] || [ \$status -eq 4 ] || exit \$status; }"
}

// Relative locations in a catalog count from where it lies, never from the work folder.
def realPath(path) {
    return "\"\$(readlink -f ${quoted(path)})\""
}

// ---- jobs

def known(List files) {
    files.each { file -> Run.jobs[file.baseName] = file }
    return files
}


// Job names are evenly spread numbers. They are halved at their next bit until no part is too large, so that a job
// more or less changes the group that it falls into, or splits it in two, and no other.
def cut(List jobs, int size, int bit) {
    if (jobs.size() <= size) {
        return jobs ? [jobs] : []
    }
    def halves = jobs.split { job -> !(UUID.fromString(job.baseName).mostSignificantBits >>> (63 - bit) & 1) }
    return cut(halves[0], size, bit + 1) + cut(halves[1], size, bit + 1)
}

// ---- the end

// A service or the disk failed, or something ended it: the next try may succeed. What was asked wrongly stays wrong.
def tryAgain(task) {
    def report = task.workDir.resolve('report')
    def ending = Ending.of(task)
    Run.dispatchFailed = (report.exists() ? "The dispatcher's report: ${report.toUriString()}\n" : '') + "error: ${ending.sentence}"
    return task.exitStatus == 1 || ending.mayPass ? 'retry' : 'terminate'
}

// A failure ends only its own task, unless every other task would meet it as well, or too many jobs failed.
def tolerated(task, List jobs) {
    def folders = jobs.collectEntries { job -> [job.baseName, task.workDir.resolve("analysis_results/${job.baseName}")] }
    def ending = Ending.of(task, folders.values())
    if (ending.mayPass && task.attempt <= 2) {
        return 'retry'
    }
    if (ending.isForAll || !jobs) {
        Run.failures.putIfAbsent("error: ${jobs || ending.isOwn ? '' : "${task.name}: "}${ending.sentence}".toString(), task.workDir.toUriString())
        return ending.isForAll ? 'finish' : 'ignore'
    }
    folders.each { name, folder -> failed(name, folder, ending, task) }
    Run.isEndedEarly = Run.isEndedEarly || areTooMany(Run.failed.size())
    return Run.isEndedEarly ? 'finish' : 'ignore'
}

// A job that was ended together with its task could not write its record itself.
def failed(String name, folder, Ending ending, task) {
    def job = new groovy.json.JsonSlurper().parse(Run.jobs[name])
    Run.folders[name] = folder
    if (folder.resolve('job.json').exists()) {
        Run.done << name
        return
    }
    if (!folder.resolve('failed.json').exists()) {
        folder.mkdirs()
        folder.resolve('failed.json').text = groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(Ending.record(name, job, ending, task)))
    }
    Run.failed << name
    Run.failures.putIfAbsent("error: job ${name} (${job.asset_name.join(', ')}): ${ending.sentence}".toString(), folder.toUriString())
}

// `--max_failures` is a number of jobs, or a share of all jobs of the request.
def areTooMany(int number) {
    def given = params.max_failures?.toString()
    if (!given) {
        return false
    }
    return given.endsWith('%') ? 100 * number > given[0..-2].toBigDecimal() * Run.jobs.size() : number > given.toInteger()
}

def tellFailures(success) {
    def failures = Run.failures.collect { reason, folder -> "${reason}\n  all that it left: ${folder}" }
    def lines = failures.take(20) + (failures.size() > 20 ? ["… and ${failures.size() - 20} more"] : [])
    if (Run.isEndedEarly) {
        lines << "error: ${Run.failed.size()} of ${Run.jobs.size()} jobs failed, more than --max_failures=${params.max_failures}: the rest was not run; -resume runs it"
    }
    else if (failures && Run.collected) {
        lines << "error: ${failures.size()} failed, ${Run.done.size()} jobs are done; -resume tries again only what failed"
    }
    if (Run.dispatchFailed && !success && !Run.collected && !failures) {
        lines << Run.dispatchFailed
    }
    lines.each { line -> System.err.println(line) }
}

// What an earlier request left and this one did not replace.
def removeEarlier(output) {
    def results = output.resolve('analysis_results')
    def there = results.isDirectory() ? results.listFiles() : []
    there.findAll { path -> isResultOfJob(path) && !(path.name in Run.done && path.resolve('job.json').exists()) }.each { path -> path.deleteDir() }
    if (!Run.summarised && output.resolve('analysis_summary').isDirectory()) {
        output.resolve('analysis_summary').deleteDir()
    }
}

def isResultOfJob(path) {
    return path.name ==~ /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/ && ['job.json', 'failed.json'].any { name -> path.resolve(name).exists() }
}
