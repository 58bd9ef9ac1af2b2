#!/usr/bin/env nextflow

// From request to results: dispatch the jobs, analyse each, collect what they returned. See docs/pipeline.md.

params.input_files = null
params.analysis = null
params.set = null
params.jobs_per_task = 1
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

    script:
    def named = named_files instanceof List ? named_files : [named_files]
    def own = ['--input_directory=input', '--output_directory=jobs', '--overwrite=1', '--query_in_jobs=0']
    def all = own + (report ? ['--report_directory=report'] : []) + flags.collect { flag ->
        flag.file == null ? quoted("--${flag.name}=${flag.text}") : "--${flag.name}=${realPath(named[flag.file])}"
    }
    """
    mkdir -p input
    job-dispatch ${all.join(' ')}
    """
}

// One job a task. What decides whether it runs again is the content of its files, wherever they lie.
process ANALYSE {
    tag { job.baseName }
    cache 'deep'
    publishDir params.output_directory, pattern: 'analysis_results/*', mode: 'copy', overwrite: true
    errorStrategy { tolerated(task) }

    input:
    path job, stageAs: 'jobs/*'
    path analysis, stageAs: 'analysis/*'
    path run_analysis
    val settings

    output:
    path 'analysis_results/*', type: 'dir', emit: results
    path 'analysis_results/*/job.json', emit: done

    script:
    """
    python ${run_analysis} ${quoted(analysis)} jobs ${settingFlags(settings)}
    """
}

// Several jobs a task. Whatever happens to one of them, those that are done count, and the rest run alone.
process ANALYSE_GROUP {
    tag { jobs instanceof List ? "${jobs.size()} jobs" : '1 job' }
    cache 'deep'
    publishDir params.output_directory, pattern: 'analysis_results/*', mode: 'copy', overwrite: true
    errorStrategy { tolerated(task) }

    input:
    path jobs, stageAs: 'jobs/*'
    path analysis, stageAs: 'analysis/*'
    path run_analysis
    val settings

    output:
    path 'analysis_results/*', type: 'dir', optional: true, emit: results
    path 'analysis_results/*/job.json', optional: true, emit: done
    path 'left/*', optional: true, emit: left

    script:
    """
    status=0
    python ${run_analysis} ${quoted(analysis)} jobs ${settingFlags(settings)} || status=\$?
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
    publishDir params.output_directory, mode: 'copy', overwrite: true, saveAs: { name -> file(name).name }

    input:
    path records
    path report, stageAs: 'report/*'
    path scripts

    output:
    path 'table.csv', emit: table
    path 'report/*', includeInputs: true

    script:
    """
    python collect.py ${records}
    """
}

// The analysis file's function `summarise`, if it has one.
process SUMMARISE {
    cache 'deep'
    publishDir params.output_directory, mode: 'copy', overwrite: true
    errorStrategy { tolerated(task) }

    input:
    path records
    path analysis, stageAs: 'analysis/*'
    path scripts

    output:
    path 'analysis_summary'

    script:
    """
    python collect.py ${records} --summarise ${quoted(analysis)}
    """
}

workflow {
    refuse(mistakes())
    def flags = dispatcherFlags()
    def named = flags.findAll { flag -> flag.file != null }.collect { flag -> flag.path }
    def scripts = [file("${projectDir}/run_analysis.py"), file("${projectDir}/collect.py")]
    def analysis = file(params.analysis, glob: false)
    DISPATCH(params.input_files ? file(params.input_files, glob: false) : [], named, flags, !isOnlyLookedAt())

    def jobs = DISPATCH.out.jobs.flatMap { found -> found instanceof List ? found : [found] }
    def together = params.jobs_per_task.toString().toInteger()
    def alone = jobs
    def done = channel.empty()
    if (together > 1) {
        ANALYSE_GROUP(jobs.toSortedList { job -> job.name }.flatMap { sorted -> cut(sorted, together, 0) },
            analysis, scripts[0], settings())
        alone = ANALYSE_GROUP.out.left.flatten()
        done = ANALYSE_GROUP.out.done.flatten()
    }
    ANALYSE(alone, analysis, scripts[0], settings())
    done = done.mix(ANALYSE.out.done)
    done.subscribe { record -> Run.done << record.parent.name }
    def records = channel.of('').mix(done).collectFile(name: 'records.json', sort: 'deep')
    def reported = DISPATCH.out.report.map { files -> [files] }
    def ready = records.combine(reported)
    COLLECT(ready.map { both -> both[0] }, ready.map { both -> both[1] }, scripts)
    SUMMARISE(ready.map { both -> both[0] }, analysis, scripts)
    COLLECT.out.table.subscribe { table -> Run.collected = true }
    SUMMARISE.out.subscribe { summary -> Run.summarised = true }

    workflow.onComplete = {
        if (Run.collected) {
            removeEarlier(file(params.output_directory, glob: false))
        }
        tellFailures(workflow.success)
    }
}

// ---- what is asked for

// Such a run has no jobs and no report, so that nothing in the output folder is taken for that of an earlier request.
def isOnlyLookedAt() {
    return ['dry_run', 'describe'].any { name -> "${params.get(name)}".trim().toLowerCase() in ['true', '1'] }
}

// What the pipeline itself decides about the dispatcher.
def ownFlags() {
    return ['input_directory', 'output_directory', 'report_directory', 'overwrite', 'query_in_jobs']
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
    if (!(params.jobs_per_task.toString() ==~ /[1-9][0-9]{0,5}/)) {
        found << "--jobs_per_task: '${params.jobs_per_task}' is not a whole number from 1"
    }
    settings().findAll { pair -> !(pair ==~ /(?s)\s*[^=\s][^=]*=.*/) }.each { pair ->
        found << "--set: '${pair}' is not name=value"
    }
    return found
}

def refuse(List found) {
    if (found) {
        exit 1, found.join('\n')
    }
}

// Every flag of the dispatcher that is set, as text; those that name a file know its place among the staged ones.
def dispatcherFlags() {
    def own = ['input_files', 'analysis', 'set', 'jobs_per_task', 'output_directory', 'jobs-per-task']
    def paths = []
    return params.findAll { name, value -> !(name in own) && value != null && value != '' }.collect { name, value ->
        def path = namedFile(name, value)
        if (path != null) {
            paths << path
        }
        [name: name, text: asText(value), file: path == null ? null : paths.size() - 1, path: path]
    }
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

// The file that a flag names, counted from the folder in which Nextflow is started; a catalog may lie among the
// input files. None: the dispatcher finds it there, or says what is wrong.
def namedFile(name, value) {
    def isQuery = value.toString().trim().startsWith('{') || value.toString().trim().startsWith('[')
    if (!(name in ['docdb_query', 'exclude', 'metadata_catalog', 'parameter_schema']) || isQuery) {
        return null
    }
    def places = [value.toString()]
    if (name == 'metadata_catalog' && params.input_files) {
        places << "${params.input_files}/${value}".toString()
    }
    return places.collect { place -> file(place, glob: false) }.find { path -> path.isFile() }
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

// Relative locations in a catalog count from where it lies, never from the work folder.
def realPath(path) {
    return "\"\$(readlink -f ${quoted(path)})\""
}

// ---- groups

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

// A service or the disk failed, or a signal ended it: the next try may succeed. What was asked wrongly stays wrong.
def tryAgain(task) {
    def report = task.workDir.resolve('report')
    Run.dispatchFailed = (report.exists() ? "The dispatcher's report: ${report.toUriString()}\n" : '') + reason(task)
    return task.exitStatus == 1 || task.exitStatus > 128 ? 'retry' : 'terminate'
}

// A failure that ends only its own task, but for one that every other task would meet as well.
def tolerated(task) {
    Run.failures.putIfAbsent(reason(task), task.workDir.toUriString())
    return task.exitStatus == 2 ? 'finish' : 'ignore'
}

// What the program said last: from its last line that begins with `error:`, else its last line.
def reason(task) {
    def log = task.workDir.resolve('.command.err')
    def lines = log.exists() ? log.readLines().findAll { line -> line.trim() } : []
    def start = lines.findLastIndexOf { line -> line.startsWith('error: ') }
    if (start >= 0) {
        return lines.drop(start).join('\n')
    }
    def signal = task.exitStatus > 128 && task.exitStatus < 160 ? " (signal ${task.exitStatus - 128})" : ''
    return "error: ${task.name}: exit status ${task.exitStatus}${signal}: ${lines ? lines.last() : 'it said nothing'}"
}

def tellFailures(success) {
    def failures = Run.failures.collect { reason, folder -> "${reason}\n  all that it left: ${folder}" }
    def lines = failures.take(20) + (failures.size() > 20 ? ["… and ${failures.size() - 20} more"] : [])
    if (failures && Run.collected) {
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
    there.findAll { path -> isResultOfJob(path) && !(path.name in Run.done) }.each { path -> path.deleteDir() }
    if (!Run.summarised && output.resolve('analysis_summary').isDirectory()) {
        output.resolve('analysis_summary').deleteDir()
    }
}

def isResultOfJob(path) {
    return path.name ==~ /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/ && path.resolve('job.json').exists()
}
