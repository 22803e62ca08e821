//! Disassembles a linked kernel and finds instructions that stand where they must not: privileged ones outside of
//! `pvops` and the entry stubs, and anywhere those that the strictest KVM cannot execute at CPL 0.
//!
//! Code is decoded from each symbol to the next, so that data between functions cannot shift what follows it. An
//! instruction belongs to the file that it was written in: where its function was inlined, the line tables show it.

use addr2line::gimli::{self, EndianSlice, LittleEndian};
use anyhow::{Context, Result, bail};
use iced_x86::{Code, Decoder, DecoderOptions, EncodingKind, Formatter, GasFormatter, Instruction, Mnemonic, Register};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use rustc_demangle::demangle;
use std::fmt::{self, Display};

/// Folders in which privileged instructions belong, as paths in line tables end.
pub const PRIVILEGED_FOLDERS: [&str; 3] =
    ["/guest-kernel/pvops/src/", "/guest-kernel/src/boot/", "/guest-kernel/src/trap/"];
/// The same as modules, for code without a line.
pub const PRIVILEGED_MODULES: [&str; 3] = ["pvops::", "guest_kernel::boot::", "guest_kernel::trap::"];

/// Hand-written code, which has no module: the PVH entry, its look at the CPU, the way into 64-bit mode, and the trap entries.
pub const PRIVILEGED_STUBS: [&str; 5] = ["pvh_start", "check_cpu", "pvh_checked", "long_mode", "trap_stubs"];

/// Why an instruction must not stand where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It is privileged, or behaves otherwise without privilege.
    Privileged,
    /// The strictest KVM does not execute it at CPL 0.
    NotEmulated,
    /// The bytes are no instruction.
    Undecodable,
}

/// An instruction where it must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Why not.
    pub rule: Rule,
    /// Where.
    pub address: u64,
    /// In which function, demangled.
    pub symbol: String,
    /// What it is.
    pub text: String,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.rule {
            Rule::Privileged => "privileged",
            Rule::NotEmulated => "not executed by the strictest KVM",
            Rule::Undecodable => "no instruction",
        };
        write!(f, "{:#x} in {}: {} ({why})", self.address, self.symbol, self.text)
    }
}

/// How many instructions code has, padding left out.
pub fn instructions(code: &[u8]) -> usize {
    let decoder = Decoder::new(64, code, DecoderOptions::NONE);
    decoder.into_iter().filter(|instruction| instruction.mnemonic() != Mnemonic::Nop).count()
}

/// What was examined, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Instructions decoded.
    pub instructions: usize,
    /// Functions and labels.
    pub symbols: usize,
    /// What must not be.
    pub violations: Vec<Violation>,
}

struct Piece {
    start: u64,
    /// Bytes of the function as its symbol says; 0: not known.
    size: u64,
    name: String,
}

/// Looks through the code of a kernel ELF with symbols.
///
/// # Errors
/// When it is no ELF file, or has no code or no symbols.
pub fn check(kernel: &[u8]) -> Result<Findings> {
    let file = object::File::parse(kernel).context("the kernel is no object file")?;
    let lines = Lines::new(&file)?;
    let mut findings = Findings::default();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let index = section.index();
        let bytes = section.data().context("a code section lies outside the file")?;
        let mut pieces: Vec<Piece> = file
            .symbols()
            .filter(|symbol| symbol.section_index() == Some(index))
            .filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown))
            .map(|symbol| Piece {
                start: symbol.address(),
                size: symbol.size(),
                name: format!("{:#}", demangle(symbol.name().unwrap_or("?"))),
            })
            .filter(|piece| !piece.name.is_empty())
            .collect();
        // At one address the symbol with the size comes last and wins.
        pieces.sort_by(|a, b| (a.start, a.size, &a.name).cmp(&(b.start, b.size, &b.name)));
        pieces.reverse();
        pieces.dedup_by_key(|piece| piece.start);
        pieces.reverse();
        if pieces.first().is_none_or(|first| first.start > section.address()) {
            pieces.insert(0, Piece { start: section.address(), size: 0, name: "(no symbol)".into() });
        }
        findings.symbols += pieces.len();
        let end_of_section = section.address() + bytes.len() as u64;
        for (at, piece) in pieces.iter().enumerate() {
            let end = pieces.get(at + 1).map_or(end_of_section, |next| next.start);
            let range = (piece.start - section.address()) as usize..(end - section.address()) as usize;
            let Some(code) = bytes.get(range) else { bail!("the symbol {} lies outside its section", piece.name) };
            check_piece(piece, code, &lines, &mut findings);
        }
    }
    if findings.instructions == 0 || findings.symbols < 2 {
        bail!("the kernel has {} instructions and {} symbols", findings.instructions, findings.symbols);
    }
    Ok(findings)
}

fn check_piece(piece: &Piece, code: &[u8], lines: &Lines<'_>, findings: &mut Findings) {
    let mut decoder = Decoder::with_ip(64, code, piece.start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let offset = instruction.ip() - piece.start;
        if offset >= piece.size && is_padding(&code[offset as usize..]) {
            break;
        }
        findings.instructions += 1;
        let rule = if instruction.is_invalid() {
            // Tables of constants may stand between the labels of hand-written code.
            (piece.size > 0).then_some(Rule::Undecodable)
        } else if is_not_emulated(&instruction) {
            Some(Rule::NotEmulated)
        } else if is_privileged(&instruction) {
            let allowed = match lines.file(instruction.ip()) {
                Some(file) => PRIVILEGED_FOLDERS.iter().any(|folder| file.contains(folder)),
                None => may_be_privileged(&piece.name),
            };
            (!allowed).then_some(Rule::Privileged)
        } else {
            None
        };
        if let Some(rule) = rule {
            let mut text = String::new();
            GasFormatter::new().format(&instruction, &mut text);
            let violation = Violation { rule, address: instruction.ip(), symbol: piece.name.clone(), text };
            findings.violations.push(violation);
        }
    }
}

/// What stands between functions, up to the end of the page.
fn is_padding(rest: &[u8]) -> bool {
    [0x00, 0x90, 0xcc].iter().any(|filler| rest.iter().all(|byte| byte == filler))
}

/// By the module of the function itself: `pvops::x`, `<pvops::X as Y>::z`.
fn may_be_privileged(name: &str) -> bool {
    let module = name.trim_start_matches(['<', '&', '*']);
    PRIVILEGED_STUBS.contains(&name) || PRIVILEGED_MODULES.iter().any(|prefix| module.starts_with(prefix))
}

/// The line tables.
struct Lines<'data>(addr2line::Context<EndianSlice<'data, LittleEndian>>);

impl<'data> Lines<'data> {
    fn new(file: &object::File<'data>) -> Result<Self> {
        let section = |id: gimli::SectionId| -> Result<_> {
            let section = file.section_by_name(id.name());
            let data = section.map(|section| section.data()).transpose().context("a debug section lies outside")?;
            Ok(EndianSlice::new(data.unwrap_or_default(), LittleEndian))
        };
        let dwarf = gimli::Dwarf::load(section)?;
        addr2line::Context::from_dwarf(dwarf).map(Self).context("the line tables are damaged")
    }

    /// The source file of an instruction, wherever its function was inlined.
    fn file(&self, address: u64) -> Option<&str> {
        self.0.find_location(address).ok()??.file
    }
}

fn is_privileged(instruction: &Instruction) -> bool {
    use Mnemonic::{Iret, Iretd, Iretq, Popf, Popfd, Popfq, Sgdt, Sidt, Sldt, Smsw, Str, Syscall, Vmcall, Vmmcall};
    instruction.is_privileged()
        || matches!(
            instruction.mnemonic(),
            Iret | Iretd | Iretq | Popf | Popfd | Popfq | Sgdt | Sidt | Sldt | Smsw | Str | Syscall | Vmcall | Vmmcall
        )
}

fn is_not_emulated(instruction: &Instruction) -> bool {
    use Mnemonic::{
        Clac, Cmpxchg16b, Endbr32, Endbr64, Int, Int1, Int3, Lar, Popcnt, Rdtscp, Stac, Sysexit, Sysexitq, Sysret,
        Sysretq, Xgetbv,
    };
    let vector =
        |register: Register| register.is_vector_register() || register.is_mm() || register.is_st() || register.is_k();
    instruction.encoding() != EncodingKind::Legacy
        || (0..instruction.op_count()).any(|op| vector(instruction.op_register(op)))
        || instruction.code() == Code::Wait
        || matches!(
            instruction.mnemonic(),
            Clac | Cmpxchg16b
                | Endbr32
                | Endbr64
                | Int
                | Int1
                | Int3
                | Lar
                | Popcnt
                | Rdtscp
                | Stac
                | Sysexit
                | Sysexitq
                | Sysret
                | Sysretq
                | Xgetbv
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object as Writer, Symbol, SymbolSection};
    use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolScope};

    const NOP: u8 = 0x90;

    /// An ELF file with one function of each name and code.
    fn file(functions: &[(&str, &[u8])]) -> Vec<u8> {
        let mut file = Writer::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let text = file.section_id(object::write::StandardSection::Text);
        for (name, code) in functions {
            let symbol = file.add_symbol(Symbol {
                name: name.as_bytes().to_vec(),
                value: 0,
                size: 0,
                kind: SymbolKind::Text,
                scope: SymbolScope::Linkage,
                weak: false,
                section: SymbolSection::Undefined,
                flags: SymbolFlags::None,
            });
            file.add_symbol_data(symbol, text, code, 16);
        }
        file.write().unwrap()
    }

    fn rules(name: &str, code: &[u8]) -> Vec<Rule> {
        let findings = check(&file(&[(name, code), ("end", &[NOP])])).unwrap();
        findings.violations.iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_planted_privileged_instruction_is_found_outside_and_allowed_inside_its_modules() {
        let planted: [&[u8]; 14] = [
            &[0xfa],             // cli
            &[0xfb],             // sti
            &[0xf4],             // hlt
            &[0x0f, 0x30],       // wrmsr
            &[0x0f, 0x22, 0xd8], // mov cr3, rax
            &[0x0f, 0x20, 0xd0], // mov rax, cr2
            &[0x0f, 0x01, 0x38], // invlpg [rax]
            &[0x0f, 0x01, 0x10], // lgdt [rax]
            &[0xee],             // out dx, al
            &[0xec],             // in al, dx
            &[0x9d],             // popfq
            &[0x48, 0xcf],       // iretq
            &[0x0f, 0x01, 0xf8], // swapgs
            &[0x0f, 0x01, 0xc1], // vmcall
        ];
        for code in planted {
            let code = [&[NOP], code, &[0xc3]].concat();
            assert_eq!(rules("_ZN12guest_kernel2mm3map17h0123456789abcdefE", &code), [Rule::Privileged], "{code:x?}");
            for name in [
                "_ZN5pvops6native3cli17h0123456789abcdefE",
                "_ZN12guest_kernel4boot5entry17h0123456789abcdefE",
                "_ZN12guest_kernel4trap5entry17h0123456789abcdefE",
            ] {
                assert!(rules(name, &code).is_empty(), "{name} {code:x?}");
            }
        }
    }

    #[test]
    fn a_planted_instruction_that_the_strictest_kvm_lacks_is_found_everywhere() {
        let planted: [&[u8]; 12] = [
            &[0x0f, 0x28, 0xc1],             // movaps xmm0, xmm1
            &[0xc5, 0xfc, 0x28, 0xc1],       // vmovaps ymm0, ymm1
            &[0xd9, 0xc1],                   // fld st(1)
            &[0x0f, 0x6f, 0xc1],             // movq mm0, mm1
            &[0xf3, 0x48, 0x0f, 0xb8, 0xc1], // popcnt rax, rcx
            &[0x0f, 0x01, 0xf9],             // rdtscp
            &[0x0f, 0x01, 0xd0],             // xgetbv
            &[0xf3, 0x0f, 0x1e, 0xfa],       // endbr64
            &[0x48, 0x0f, 0xc7, 0x08],       // cmpxchg16b [rax]
            &[0xcc],                         // int3
            &[0x0f, 0x01, 0xca],             // clac
            &[0xc4, 0xe2, 0xf0, 0xf2, 0xc1], // andn rax, rcx, rcx
        ];
        for code in planted {
            let code = [&[NOP], code, &[0xc3]].concat();
            for name in ["_ZN12guest_kernel2mm3map17h0123456789abcdefE", "_ZN5pvops6native3cli17h0123456789abcdefE"] {
                assert_eq!(rules(name, &code), [Rule::NotEmulated], "{code:x?}");
            }
        }
    }

    #[test]
    fn ordinary_code_and_padding_are_fine() {
        // push rbp; mov rbp, rsp; lock cmpxchg [rdi], rsi; rep movsb; fs-based load; pop rbp; ret
        let code = [
            0x55, 0x48, 0x89, 0xe5, 0xf0, 0x48, 0x0f, 0xb1, 0x37, 0xf3, 0xa4, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0,
            0x5d, 0xc3,
        ];
        assert!(rules("f", &code).is_empty());
        let findings = check(&file(&[("f", &[0xc3]), ("g", &[0xc3])])).unwrap();
        assert!(findings.violations.is_empty() && findings.instructions >= 2);
    }

    #[test]
    fn what_is_no_kernel_is_an_error_not_a_clean_bill() {
        assert!(check(b"not an object").is_err());
        assert!(check(&file(&[])).is_err());
    }
}
